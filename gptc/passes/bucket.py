"""Gradients travel in buckets, each as soon as its last one is there.

Reads:    a graph at stage `precise` with an `all_reduce` or `reduce_scatter` for every tensor that the ranks exchange,
          and an `all_gather` for every one that they put together.
Leaves:   the same stage, with halves of the first two, shared by many tensors, and an `all_gather` for many.
Does:     gather them, in the order in which they are computed, into buckets of some megabytes; begin the exchange of a
          bucket right behind the last of its tensors, end it in front of the first reader of any of them.  Of buckets
          that become shares two travel at a time: whole gradients end early, for they are larger than their shares.
Does not: move anything else: what stands between the two halves is what the exchange overlaps with.

Li et al., PyTorch Distributed, 2020, section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops.collective import (
    AllGather,
    AllReduce,
    AllReduceBegin,
    AllReduceEnd,
    ReduceScatter,
    ReduceScatterBegin,
    ReduceScatterEnd,
)
from gptc.passes.manager import Context

TRAVELLING = 2
"""Buckets on their way to shares; while one is being sent, the next fills."""


@dataclass(frozen=True)
class Bucket:
    """Split every exchange into a beginning and an end that it shares with others."""

    name: ClassVar[str] = "bucket"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    bytes: int = 25_000_000
    """A bucket is full when it holds this much: enough for full bandwidth, little enough to begin early."""

    def run(self, graph: Graph, context: Context) -> Graph:
        position = {v.name: i for i, n in enumerate(graph.nodes) for v in n.results}
        b = Builder(graph.name)
        b.reserve(v.name for v in graph.values())
        places = _Places(graph)
        number = 0
        for op in (AllReduce, ReduceScatter):
            nodes = [n for n in graph.nodes if isinstance(n.op, op)]
            nodes.sort(key=lambda n: position[n.operands[0].name])
            travelling: list[Node] = []
            for bucket in _buckets(nodes, self.bytes):
                begin, end = _halves(b, bucket, f"exchange {number}")
                number += 1
                if op is ReduceScatter and len(travelling) == TRAVELLING:
                    places.put_ahead(travelling.pop(0), begin)
                travelling.append(end)
                places.split(bucket, begin, end)
                context.done(self.name, begin, f"{len(bucket)} tensors travel together", _size(bucket))
        for bucket in _buckets([n for n in graph.nodes if isinstance(n.op, AllGather)], self.bytes):
            whole = _gathered(bucket)
            places.join(bucket, whole)
            context.done(self.name, whole, f"{len(bucket)} tensors are put together", _size(bucket))
        return replace(graph, nodes=tuple(places.nodes()))


def _size(nodes: Sequence[Node]) -> int:
    """Bytes of the whole tensors; the last operand is one."""
    return sum(n.operands[-1].type.nbytes for n in nodes)


def _buckets(nodes: Sequence[Node], full: int) -> Iterator[list[Node]]:
    """The nodes in order, cut behind each that fills a bucket."""
    bucket: list[Node] = []
    for node in nodes:
        bucket.append(node)
        if _size(bucket) >= full:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _halves(b: Builder, nodes: Sequence[Node], origin: str) -> tuple[Node, Node]:
    """Both halves of one exchange; the results of the second are those of `nodes`."""
    given = tuple(n.operands[0] for n in nodes)
    results = tuple(n.results[0] for n in nodes)
    flying = tuple(Value(b.fresh(f"{v.name}.sent"), r.type) for v, r in zip(given, results, strict=True))
    begin: Op = AllReduceBegin(tensors=len(nodes))
    end: Op = AllReduceEnd(tensors=len(nodes))
    back = flying
    if isinstance(nodes[0].op, ReduceScatter):
        begin = ReduceScatterBegin(shares=tuple(r.type.count for r in results))
        end, back = ReduceScatterEnd(tensors=len(nodes)), (*flying, *given)  # which were only lent
    return Node(begin, given, flying, None, origin), Node(end, back, results, None, origin)


def _gathered(nodes: Sequence[Node]) -> Node:
    """One node for many tensors: their shares, then those that they replace."""
    shares, old = ([n.operands[i] for n in nodes] for i in range(2))
    results = tuple(n.results[0] for n in nodes)
    return Node(AllGather(tensors=len(nodes)), (*shares, *old), results, None, "gather")


class _Places:
    """Where the nodes of buckets stand in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.gone: dict[str, Node | None] = {}
        """Nodes that a bucket replaces; what stands in the place of the first of them where they are gathered."""
        self.behind: dict[str, list[Node]] = {}
        """Node -> the beginnings that follow it."""
        self.ahead: dict[str, Node] = {}
        """Value -> the end that must come before its first reader, or name of a beginning -> one that comes before."""
        self.done: set[str] = set()

    def split(self, nodes: Sequence[Node], begin: Node, end: Node) -> None:
        """`begin` behind the last operand, `end` in front of the first reader."""
        self.gone |= dict.fromkeys((n.name for n in nodes), None)
        self.behind.setdefault(self.graph.producer[nodes[-1].operands[0].name].name, []).append(begin)
        self.ahead |= {v.name: end for v in end.results}

    def put_ahead(self, end: Node, begin: Node) -> None:
        """`end` in front of the beginning of another bucket."""
        self.ahead[begin.name] = end

    def join(self, nodes: Sequence[Node], whole: Node) -> None:
        """`whole` in place of the nodes, of which none reads what stands between them."""
        self.gone |= dict.fromkeys((n.name for n in nodes), None)
        self.gone[nodes[0].name] = whole

    def nodes(self) -> Iterator[Node]:
        """All nodes in order."""
        for node in self.graph.nodes:
            if node.name in self.gone:
                if whole := self.gone[node.name]:
                    yield whole
                continue
            for value in node.operands:
                yield from self.end(value.name)
            yield node
            for begin in self.behind.get(node.name, ()):
                yield from self.end(begin.name)
                yield begin
        for output in self.graph.outputs:  # which nothing in the graph may have read
            yield from self.end(output.value.name)

    def end(self, name: str) -> Iterator[Node]:
        """What must stand here, once."""
        end = self.ahead.get(name)
        if end is not None and end.name not in self.done:
            self.done.add(end.name)
            yield end
