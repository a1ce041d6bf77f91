"""The verifier: what a graph must satisfy at each stage.  It runs after every pass, so a pass that breaks a rule
is named by its own failure.

always      values are defined once and before their use, types are what the ops infer, outputs exist and fit
fused       only views, regions and ops with a kernel are left, and each reads the strides it is given
planned     every value has a place in its segment, and nothing that is still needed is overwritten
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import takewhile

from gptc.contracts import ALIGNMENT
from gptc.errors import Diagnostic, InternalError
from gptc.ir.analysis import Interval, bound_for, buffers, intervals, roots, segments
from gptc.ir.graph import STAGES, Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.cache import AttentionCached, CacheAppend
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.leaf import Buffer, Constant, Input, Leaf
from gptc.ir.ops.region import Gemm, Map
from gptc.ir.ops.shape import View
from gptc.ir.types import TensorType

Findings = Iterator[Diagnostic]
Check = Callable[[Graph], Findings]


def verify(graph: Graph, stage: str) -> None:
    """Raise InternalError with everything that is wrong with `graph` as one at `stage`."""
    reached = STAGES.index(stage)
    for since, checks in CHECKS:
        if STAGES.index(since) <= reached:
            found = tuple(f for check in checks for f in check(graph))
            if found:
                raise InternalError(found)


def _at(node: Node, problem: str) -> Diagnostic:
    return Diagnostic(f"%{node.name} = {node.op.name}: {problem}", node.span)


# Always.


def names_are_unique(graph: Graph) -> Findings:
    seen: set[str] = set()
    for node in graph.nodes:
        for value in node.results:
            if value.name in seen:
                yield _at(node, f"{value} is defined twice")
            seen.add(value.name)


def operands_are_defined_before_use(graph: Graph) -> Findings:
    defined: dict[str, Value] = {}
    for node in graph.nodes:
        for value in node.operands:
            if value.name not in defined:
                yield _at(node, f"{value} is not defined before it is used")
            elif defined[value.name] is not value and defined[value.name] != value:
                yield _at(node, f"{value} is used as {value.type} but defined as {defined[value.name].type}")
        defined.update((v.name, v) for v in node.results)


def types_are_inferred(graph: Graph) -> Findings:
    for node in graph.nodes:
        try:
            inferred = node.op.infer(*(v.type for v in node.operands))
        except (ValueError, IndexError, TypeError) as error:  # ShapeError, or attributes that make no sense
            yield _at(node, str(error))
            continue
        recorded = tuple(v.type for v in node.results)
        if inferred != recorded:
            yield _at(node, f"is {_types(inferred)} but recorded as {_types(recorded)}")


def _types(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))


def keys_are_unique(graph: Graph) -> Findings:
    keys = Counter((n.op.name, n.op.key) for n in graph.nodes if isinstance(n.op, (Input, Buffer)))
    for (name, key), count in keys.items():
        if count > 1 or not key:
            yield Diagnostic(f"{count} leaves are the {name} {key!r}" if key else f"a leaf of kind {name} has no key")


def outputs_exist(graph: Graph) -> Findings:
    values = {v.name: v for v in graph.values()}
    for name, count in Counter(o.name for o in graph.outputs).items():
        if count > 1:
            yield Diagnostic(f"{count} outputs are called {name!r}")
    for output in graph.outputs:
        if values.get(output.value.name) != output.value:
            yield Diagnostic(f"output {output.name!r} is {output.value}: {output.value.type}, which no node defines")


def stores_fit_their_buffers(graph: Graph) -> Findings:
    leaves = buffers(graph)
    for output in graph.outputs:
        buffer = leaves.get(output.name)
        if buffer and buffer.results[0].type != output.value.type:
            yield _at(buffer, f"{output.value}: {output.value.type} does not fit into {buffer.results[0].type}")


# From `fused` on.


def everything_has_a_kernel(graph: Graph) -> Findings:
    for node in graph.nodes:
        if node.op.kernel is None and not isinstance(node.op, (Leaf, View)):
            yield _at(node, "should have been lowered or fused by now")


def constants_are_literals(graph: Graph) -> Findings:
    for node in graph.nodes:
        for value in node.operands:
            if isinstance(graph.producer[value.name].op, Constant):
                yield _at(node, f"reads the constant {value}, which has no memory")


def strides_are_readable(graph: Graph) -> Findings:
    for node in graph.nodes:
        for index, value in enumerate(node.operands):
            if value.type.strides is not None and not _reads_strided(node.op, index, value.type):
                yield _at(node, f"cannot read {value}: {value.type} with these strides")


_NEW_TOKENS: dict[type, int] = {AttentionCached: 0, CacheAppend: 1}
"""The operand that may be strided; caches are dense."""


def _reads_strided(op: Op, index: int, kind: TensorType) -> bool:
    """Whether a kernel can read this operand although it is not contiguous."""
    if min(kind.steps) < 0:
        return isinstance(op, Map)
    if isinstance(op, Foreach):
        return _reads_strided(op.op, index // op.times, kind)
    if isinstance(op, Gemm):
        return index < 2 and 1 in kind.steps[-2:]
    if isinstance(op, (AttentionCached, CacheAppend)):
        return index == _NEW_TOKENS[type(op)] and (kind.steps[-1] == 1 or kind.shape[-1] == 1)
    if isinstance(op, (Attention, AttentionGrad)):
        return kind.steps[-1] == 1 or kind.shape[-1] == 1
    return isinstance(op, (Map, View))


# When planned.


def everything_is_placed(graph: Graph) -> Findings:
    root, segment, into = roots(graph), segments(graph), bound_for(graph)
    for node in graph.nodes:
        for value in node.results:
            base = root.get(value.name)
            if base is None:
                continue
            place = graph.plan.get(value.name)
            if place is None:
                yield _at(node, f"{value} has no place")
            elif place.segment != segment[base] and place != graph.plan.get(into.get(base, "")):
                yield _at(node, f"{value} is in {place.segment} but belongs in {segment[base]}")
            elif place.offset < 0 or (base == value.name and place.offset % ALIGNMENT):
                yield _at(node, f"{value} begins at {place}, not at a multiple of {ALIGNMENT}")


def views_lie_in_their_base(graph: Graph) -> Findings:
    for node in graph.nodes:
        if isinstance(node.op, View):
            (base,), (value,) = node.operands, node.results
            offset = graph.plan[base.name].offset + node.op.offset * value.type.dtype.size
            if graph.plan[value.name].offset != offset:
                yield _at(node, f"is at {graph.plan[value.name].offset}, its base puts it at {offset}")


def stores_land_in_their_buffers(graph: Graph) -> Findings:
    leaves = buffers(graph)
    for output in graph.outputs:
        leaf, here = leaves.get(output.name), graph.plan[output.value.name]
        buffer = graph.plan.get(leaf.name) if leaf else None
        if buffer and here != buffer:
            message = f"is at {here}, the buffer {output.name!r} that it is stored into at {buffer}"
            yield _at(graph.producer[output.value.name], message)


def nothing_live_is_overwritten(graph: Graph) -> Findings:
    """Storages that are needed at one time lie apart, unless one is computed in place of the other."""
    root = roots(graph)
    alive: dict[str, list[_Placed]] = {}
    ends: list[tuple[int, int, list[_Placed], _Placed]] = []
    for number, item in enumerate(sorted(intervals(graph), key=lambda i: i.first)):
        while ends and ends[0][0] < item.first:
            _, _, placed, old = heappop(ends)
            del placed[placed.index(old, bisect_left(placed, old.start, key=_start))]
        place = graph.plan[item.value.name]
        placed = alive.setdefault(place.segment, [])
        new = _Placed(place.offset, place.offset + item.nbytes, item)
        for old in _overlapped(placed, new):
            if not _in_place(graph, root, item, old.item):
                message = f"overwrites %{old.item.value.name}, which is still needed"
                yield _at(graph.producer[item.value.name], message)
        insort(placed, new, key=_start)
        heappush(ends, (item.last, number, placed, new))


@dataclass(frozen=True, eq=False)
class _Placed:
    """A storage and the bytes it has."""

    start: int
    end: int
    item: Interval


def _start(placed: _Placed) -> int:
    return placed.start


def _overlapped(others: list[_Placed], new: _Placed) -> Iterator[_Placed]:
    """Those of `others`, in order of their start and apart from each other or equal, that share bytes with `new`."""
    at = bisect_left(others, new.start, key=_start)
    yield from takewhile(lambda p: p.start < new.end, others[at:])
    yield from takewhile(lambda p: p.end > new.start, reversed(others[:at]))


def _in_place(graph: Graph, root: dict[str, str], new: Interval, old: Interval) -> bool:
    """Whether the node that makes `new` may write it over `old`, which is read there for the last time."""
    if new.first < 0 or old.last != new.first:
        return False
    node = graph.producer[new.value.name]
    for i, j in node.op.in_place:
        result, operand = node.results[i], node.operands[j]
        pair = result.name == new.value.name and root.get(operand.name) == old.value.name
        if pair and result.type == operand.type and graph.plan[result.name] == graph.plan[operand.name]:
            return True
    return False


CHECKS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("built", (names_are_unique, operands_are_defined_before_use)),
    ("built", (types_are_inferred, keys_are_unique, outputs_exist, stores_fit_their_buffers)),
    ("fused", (everything_has_a_kernel, constants_are_literals, strides_are_readable)),
    ("planned", (everything_is_placed,)),
    ("planned", (views_lie_in_their_base, stores_land_in_their_buffers, nothing_live_is_overwritten)),
)
"""Checks by the stage from which they hold.  A group relies on the groups before it."""
