"""Facts about a graph that several passes need: who shares memory, who lives when, what a node costs.

Time is the index of a node in `graph.nodes`; -1 is before the program, `len(graph.nodes)` after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.leaf import Buffer, Constant, Input, Leaf
from gptc.ir.ops.shape import View

ARENA = "arena"
_SEGMENT_OF_ROLE = {"param": "params", "copy": "params", "state": "state"}


@dataclass(frozen=True)
class Interval:
    """One piece of storage and the time it holds something that is still needed, both ends included."""

    value: Value
    """The value that fills the storage first."""
    members: tuple[str, ...]
    """That value, views of it, and values computed in place of it."""
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        return self.value.type.nbytes


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes between memory and processor if all that is needed is fetched once."""

    flops: int
    nbytes: int


def roots(graph: Graph, reuse: Mapping[str, str] | None = None) -> dict[str, str]:
    """Value name -> the value whose storage it lives in: a view in its base's, others as `reuse` tells.

    Constants have no storage and are left out.
    """
    found: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            continue
        for value in node.results:
            base = node.operands[0].name if isinstance(node.op, View) else (reuse or {}).get(value.name)
            found[value.name] = value.name if base is None else found[base]
    return found


def buffers(graph: Graph, role: str | None = None) -> dict[str, Node]:
    """Key -> leaf of every buffer, or of those in one role, in the order of the graph."""
    return {n.op.key: n for n in graph.nodes if isinstance(n.op, Buffer) and role in (None, n.op.role)}


def stored(graph: Graph) -> dict[str, str]:
    """Value name -> name of the buffer leaf that it is stored into."""
    leaves = buffers(graph)
    return {o.value.name: leaves[o.name].name for o in graph.outputs if o.name in leaves}


def segments(graph: Graph) -> dict[str, str]:
    """Root of a storage -> the memory segment it belongs to (`docs/contracts.md` section 1)."""
    root = roots(graph)
    found = dict.fromkeys(root.values(), ARENA)
    found |= {root[o.value.name]: "io" for o in graph.outputs}
    for node in graph.nodes:
        if isinstance(node.op, Input):
            found[node.name] = "io"
        elif isinstance(node.op, Buffer):
            found[node.name] = _SEGMENT_OF_ROLE[node.op.role]
    return found | {root[name]: found[leaf] for name, leaf in stored(graph).items()}


def intervals(graph: Graph, reuse: Mapping[str, str] | None = None) -> tuple[Interval, ...]:
    """Every storage, in order of definition.

    Inputs, buffers and outputs live to the end, but a buffer that the graph stores a new value into lives to
    the last read of the old one.
    """
    root = roots(graph, reuse)
    members: dict[str, list[str]] = {}
    for name, base in root.items():
        members.setdefault(base, []).append(name)
    first, last = _lifetimes(graph, root)
    overwritten = {leaf for name, leaf in stored(graph).items() if root[name] != leaf}
    leaves = {n.name for n in graph.nodes if isinstance(n.op, (Input, Buffer))}
    kept = (leaves - overwritten) | {root[o.value.name] for o in graph.outputs}
    last |= dict.fromkeys(kept, len(graph.nodes))
    values = {v.name: v for v in graph.values()}
    return tuple(Interval(values[base], tuple(names), first[base], last[base]) for base, names in members.items())


def _lifetimes(graph: Graph, root: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """First and last time that the graph itself touches each storage.  A view touches nothing."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for time, node in enumerate(graph.nodes):
        if isinstance(node.op, (View, Constant)):
            continue
        born = -1 if isinstance(node.op, (Input, Buffer)) else time
        for value in node.results:
            first.setdefault(root[value.name], born)
        for value in (*node.results, *node.operands):
            if value.name in root:
                last[root[value.name]] = born
    return first, last


def handovers(graph: Graph) -> dict[str, str]:
    """Result -> the operand whose storage it can take over, by the op's `in_place` pairs.

    The operand has the result's type, fills its storage and dies here, and no other operand reads that storage
    in another order.  A buffer is handed over only to the value that is stored into it, or to one on the way there.
    """
    root, segment, into = roots(graph), segments(graph), bound_for(graph)
    storage = {i.value.name: i for i in intervals(graph)}
    found: dict[str, str] = {}
    taken: set[str] = set()

    def home(name: str) -> str:
        """The storage that a value lives in by now."""
        while name in found:
            name = root[found[name]]
        return name

    def allowed(time: int, node: Node, result: Value, operand: Value) -> bool:
        base = root.get(operand.name)
        if base is None or base in taken or result.name in found or storage[base].last != time:
            return False
        if result.type != operand.type or storage[base].nbytes != operand.type.nbytes:
            return False
        if any(root.get(v.name) == base and v.type != operand.type for v in node.operands):
            return False
        return into.get(result.name) == home(base) or segment[base] == segment[result.name] == ARENA

    for time, node in enumerate(graph.nodes):
        for i, j in node.op.in_place:
            if allowed(time, node, node.results[i], node.operands[j]):
                found[node.results[i].name] = node.operands[j].name
                taken.add(root[node.operands[j].name])
    return found


def bound_for(graph: Graph) -> dict[str, str]:
    """Value -> the buffer leaf that it is stored into, itself or what is computed in its place and wanted alone."""
    into, leaving = stored(graph), {o.value.name for o in graph.outputs}
    for node in reversed(graph.nodes):
        for i, j in node.op.in_place:
            result, operand = node.results[i], node.operands[j]
            alone = graph.users[operand.name] == (node,) and operand.name not in leaving
            if result.name in into and alone and operand.type == result.type:
                into.setdefault(operand.name, into[result.name])
    return into


def live_bytes(graph: Graph) -> tuple[int, ...]:
    """Arena bytes that hold something needed while each node runs, results in place where they can be.

    The largest is what no plan for this order of nodes can go below.
    """
    change = [0] * (len(graph.nodes) + 1)
    segment = segments(graph)
    for item in intervals(graph, handovers(graph)):
        if segment[item.value.name] == ARENA:
            change[item.first] += item.nbytes
            change[item.last + 1] -= item.nbytes
    return tuple(accumulate(change[:-1]))


def cost(node: Node) -> Cost:
    """What one node does; leaves and views do nothing."""
    if isinstance(node.op, (Leaf, View)):
        return Cost(0, 0)
    types = [v.type for v in node.operands]
    moved = node.op.moved(*types)
    if moved is None:
        read = {v.name: v.type.nbytes for v in node.operands}
        moved = sum(read.values()) + sum(v.type.nbytes for v in node.results)
    return Cost(node.op.flops(*types), moved)
