"""Gradients travel in buckets, each as soon as its last one is there.

Reads:    a graph at stage `precise` with an `all_reduce` for every tensor that the ranks exchange.
Leaves:   the same stage, without `all_reduce`.
Does:     gather them, in the order in which they are computed, into buckets of some megabytes; begin the exchange of a
          bucket right behind the last of its tensors, end it in front of the first reader of any of them.
Does not: move anything else: what stands between the two halves is what the exchange overlaps with.

Li et al., PyTorch Distributed, 2020, section 3.2.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.collective import AllReduce, AllReduceBegin, AllReduceEnd
from gptc.passes.manager import Context


@dataclass(frozen=True)
class Bucket:
    """Split every `all_reduce` into a beginning and an end that it shares with others."""

    name: ClassVar[str] = "bucket"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    bytes: int = 25_000_000
    """A bucket is full when it holds this much: enough for full bandwidth, little enough to begin early."""

    def run(self, graph: Graph, context: Context) -> Graph:
        position = {v.name: i for i, n in enumerate(graph.nodes) for v in n.results}
        exchanged = [n for n in graph.nodes if isinstance(n.op, AllReduce)]
        exchanged.sort(key=lambda n: position[n.operands[0].name])
        begins: dict[str, list[Node]] = {}
        ends: dict[str, Node] = {}
        b = Builder(graph.name)
        b.reserve(v.name for v in graph.values())
        for number, nodes in enumerate(_buckets(exchanged, self.bytes)):
            begin, end = _halves(b, nodes, number)
            begins.setdefault(graph.producer[nodes[-1].operands[0].name].name, []).append(begin)
            ends |= {v.name: end for v in end.results}
            size = sum(n.results[0].type.nbytes for n in nodes)
            context.done(self.name, begin, f"{len(nodes)} tensors travel together", size)
        return replace(graph, nodes=tuple(_placed(graph, begins, ends)))


def _buckets(nodes: Sequence[Node], full: int) -> Iterator[list[Node]]:
    """The nodes in order, cut behind each that fills a bucket."""
    bucket: list[Node] = []
    for node in nodes:
        bucket.append(node)
        if sum(n.results[0].type.nbytes for n in bucket) >= full:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _halves(b: Builder, nodes: Sequence[Node], number: int) -> tuple[Node, Node]:
    """Both halves of one exchange; the results of the second are those of `nodes`."""
    given = tuple(n.operands[0] for n in nodes)
    flying = tuple(Value(b.fresh(f"{v.name}.sent"), v.type) for v in given)
    results = tuple(n.results[0] for n in nodes)
    origin = f"exchange {number}"
    begin = Node(AllReduceBegin(tensors=len(nodes)), given, flying, None, origin)
    return begin, Node(AllReduceEnd(tensors=len(nodes)), flying, results, None, origin)


def _placed(graph: Graph, begins: Mapping[str, list[Node]], ends: Mapping[str, Node]) -> Iterator[Node]:
    """The nodes with the halves where they belong: `begins` by the node they follow, `ends` by what they make."""
    done: set[str] = set()
    for node in graph.nodes:
        exchanged = isinstance(node.op, AllReduce)
        if exchanged and node.name not in graph.output_names:
            continue
        for value in node.results if exchanged else node.operands:
            if value.name in ends and ends[value.name].name not in done:
                done.add(ends[value.name].name)
                yield ends[value.name]
        if not exchanged:
            yield node
        yield from begins.get(node.name, ())
