"""The interpreter: runs a graph at any stage with NumPy.  It defines what every pass and target must preserve.

`interpret` keeps each value in an array of its own.  `interpret_planned` runs a planned graph out of its memory
segments the way emitted code does, and destroys memory as soon as it is free: a wrong plan turns into NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gptc.errors import InputError, InternalError
from gptc.ir.analysis import ARENA, intervals
from gptc.ir.graph import Graph, Node, Placement, Value
from gptc.ir.ops.leaf import Buffer, Constant, Input
from gptc.ir.ops.shape import View
from gptc.ir.types import Array, TensorType

Feeds = Mapping[str, Array]
"""Arrays by the key of input and buffer leaves."""
Observer = Callable[[Node, tuple[Array, ...]], None]
"""Called after each node with its results, which it must not keep a reference to."""

POISON = 0xFF
"""A byte that makes NaN in every float type, and -1 in i32."""


def interpret(graph: Graph, feeds: Feeds, wide: bool = False, observe: Observer | None = None) -> dict[str, Array]:
    """Outputs by name.  `wide` computes in float64 whatever the types say: the reference for tolerances."""
    found: dict[str, Array] = {}
    for node, results in _steps(graph, feeds, wide):
        if observe:
            observe(node, results)
        found |= {v.name: a for v, a in zip(node.results, results, strict=True) if v.name in graph.output_names}
    return {o.name: found[o.value.name] for o in graph.outputs}


def interpret_ranks(graph: Graph, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
    """Outputs by name of every rank of a job; each has feeds of its own, and collectives see all of them."""
    values: list[dict[str, Array]] = [{} for _ in feeds]
    for node in graph.nodes:
        operands = [tuple(known[v.name] for v in node.operands) for known in values]
        leaf = isinstance(node.op, (Input, Buffer))
        every: list[tuple[Array, ...]]
        every = [(_fed(node, given),) for given in feeds] if leaf else node.op.together(operands)
        for known, results in zip(values, every, strict=True):
            settled = map(_settle, results, (v.type for v in node.results))
            known |= {v.name: a for v, a in zip(node.results, settled, strict=True)}
    return [{o.name: known[o.value.name] for o in graph.outputs} for known in values]


def _steps(graph: Graph, feeds: Feeds, wide: bool) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    """Every node with its results, in order; arrays are dropped after their last reader."""
    values: dict[str, Array] = {}
    readers = Counter(name for n in graph.nodes for name in {v.name for v in n.operands})
    for node in graph.nodes:
        results = _results(node, [values[v.name] for v in node.operands], feeds, wide)
        yield node, results
        values |= {v.name: a for v, a in zip(node.results, results, strict=True) if readers[v.name]}
        for name in {v.name for v in node.operands}:
            readers[name] -= 1
            if not readers[name]:
                del values[name]


def _results(node: Node, operands: list[Array], feeds: Feeds, wide: bool) -> tuple[Array, ...]:
    """Evaluate one node; results have the dtype and the memory layout of their types."""
    if isinstance(node.op, (Input, Buffer)):
        return (_settle(_fed(node, feeds), node.results[0].type, wide),)
    if isinstance(node.op, Constant):
        return (np.asarray(node.op.value, _dtype(node.results[0].type, wide)),)
    if wide and all(a.dtype.kind in "iu" for a in operands) and all(v.type.dtype.is_float for v in node.results):
        operands = [a.astype(np.float64) for a in operands]  # else float32 is all that an op makes of whole numbers
    try:
        with np.errstate(all="ignore"):
            found = node.op.eval(*operands)
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise InternalError.of(f"cannot evaluate %{node.name} = {node.op.name}: {error}", node.span) from error
    if isinstance(node.op, View):
        return found
    return tuple(_settle(a, v.type, wide) for a, v in zip(found, node.results, strict=True))


def _fed(node: Node, feeds: Feeds) -> Array:
    """The caller's array for a leaf."""
    assert isinstance(node.op, (Input, Buffer))
    kind = node.results[0].type
    if node.op.key not in feeds:
        raise InputError.of(f"no value for the {node.op.name} {node.op.key!r}")
    array = np.asarray(feeds[node.op.key])
    if array.shape != kind.shape:
        raise InputError.of(f"the {node.op.name} {node.op.key!r} is {kind}, got an array of shape {array.shape}")
    return array


def _dtype(kind: TensorType, wide: bool) -> np.dtype[Any]:
    return np.dtype(np.float64) if wide and kind.dtype.is_float else kind.dtype.numpy


def _settle(array: Array, kind: TensorType, wide: bool = False) -> Array:
    """`array` in the dtype and layout of `kind`, so that a view of it finds what its strides promise."""
    if array.shape != kind.shape:
        raise InternalError.of(f"an array of shape {array.shape} does not fit {kind}")
    dtype = _dtype(kind, wide)
    if kind.strides is None:
        return np.asarray(array, dtype, order="C")
    settled = _window(np.empty(kind.span * dtype.itemsize, np.uint8), 0, kind, dtype)
    settled[...] = array
    return settled


def _window(memory: Array, offset: int, kind: TensorType, dtype: np.dtype[Any]) -> Array:
    """The tensor of type `kind` that begins at a byte of `memory`."""
    steps = tuple(s * dtype.itemsize for s in kind.steps)
    return np.ndarray(tuple(map(int, kind.shape)), dtype, memory.data, offset, steps)


def interpret_planned(graph: Graph, feeds: Feeds, observe: Observer | None = None) -> dict[str, Array]:
    """Outputs by name, computed in the segments of `graph.plan`.

    A result is poisoned before its node runs, unless it is computed in place, and arena storage after its last
    reader: kernels may write results in any order, and anything may be put into free memory.
    """
    memory = _Memory(graph)
    for node in graph.nodes:
        if isinstance(node.op, (Input, Buffer)):
            memory.at(node.results[0])[...] = _fed(node, feeds)
    dying: dict[int, list[Value]] = {}
    for item in intervals(graph):
        dying.setdefault(item.last, []).append(item.value)
    for time, node in enumerate(graph.nodes):
        _run_planned(node, memory, dying.get(time, []))
        if observe:
            observe(node, tuple(memory.read(v) for v in node.results))
    return {o.name: memory.read(o.value).copy() for o in graph.outputs}


class _Memory:
    """The segments as byte arrays, the arena full of poison."""

    def __init__(self, graph: Graph) -> None:
        self.plan = graph.plan
        self.constants = {n.name: n.op.eval()[0] for n in graph.nodes if isinstance(n.op, Constant)}
        sizes: dict[str, int] = {}
        for value in graph.values():
            if value.name not in self.constants:
                place = self._place(value)
                end = place.offset + (value.type.span - value.type.reach_back) * value.type.dtype.size
                sizes[place.segment] = max(sizes.get(place.segment, 0), end)
        self.segments = {s: np.full(n, POISON if s == ARENA else 0, np.uint8) for s, n in sizes.items()}

    def _place(self, value: Value) -> Placement:
        if value.name not in self.plan:
            raise InternalError.of(f"{value} has no place in the plan")
        return self.plan[value.name]

    def at(self, value: Value) -> Array:
        """The tensor itself."""
        place = self.plan[value.name]
        return _window(self.segments[place.segment], place.offset, value.type, value.type.dtype.numpy)

    def read(self, value: Value) -> Array:
        return self.constants[value.name] if value.name in self.constants else self.at(value)

    def poison(self, value: Value) -> None:
        place = self.plan[value.name]
        self.segments[place.segment][place.offset :][: value.type.span * value.type.dtype.size] = POISON


def _run_planned(node: Node, memory: _Memory, dying: list[Value]) -> None:
    """Run one node in memory; `dying` are the storages that nothing reads after it."""
    if isinstance(node.op, (Input, Buffer, Constant, View)):
        return
    places = memory.plan
    in_place = {
        node.results[i].name
        for i, j in node.op.in_place
        if node.operands[j].name in places and places[node.results[i].name] == places[node.operands[j].name]
    }
    for value in node.results:
        if value.name not in in_place:
            memory.poison(value)
    found = _results(node, [memory.read(v) for v in node.operands], {}, wide=False)
    apart = [a.copy() for a in found]
    for value in dying:
        if places[value.name].segment == ARENA:
            memory.poison(value)
    for value, array in zip(node.results, apart, strict=True):
        memory.at(value)[...] = array


def check_plan(graph: Graph, feeds: Feeds) -> None:
    """Run a planned graph both ways; InternalError at the first node or output that is not the same bits."""
    expected = _steps(graph, feeds, wide=False)
    kept: dict[str, Array] = {}

    def compare(node: Node, results: tuple[Array, ...]) -> None:
        for value, here, there in zip(node.results, results, next(expected)[1], strict=True):
            if here.tobytes() != there.tobytes():
                raise InternalError.of(f"the plan destroys {value} = {node.op.name}", node.span)
            if value.name in graph.output_names:
                kept[value.name] = there

    found = interpret_planned(graph, feeds, compare)
    for output in graph.outputs:
        if found[output.name].tobytes() != kept[output.value.name].tobytes():
            raise InternalError.of(f"the plan destroys the output {output.name!r} after it is made")
