"""Compute again what the backward pass needs, instead of keeping it.

Reads:    a graph at stage `precise`, gradients included, after `layout`: a view costs nothing to keep.
Leaves:   the same stage.
Does:     choose the cheapest set of values of the forward pass to keep, by a minimum cut whose capacities are bytes;
          compute the others again right before the backward pass first reads them, by copies of the same nodes, so
          that every bit stays what it was.
Does not: compute products, attention or sums again, unless a whole block is; nor anything small (statistics).

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.  The cut is the one that PyTorch's
partitioner takes, with bytes kept as its only cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.ops.leaf import Leaf
from gptc.ir.ops.row import RowOp
from gptc.ir.ops.shape import View
from gptc.passes.manager import Context

SMALL = 4
"""A result this many times smaller than the largest operand is kept: making it again would cost a whole pass."""

BLOCK = re.compile(r"\w+(?:\.\w+)*?\.\d+")
"""The outermost repeated block in an origin: `h.3` of `h.3`, `stage.0` of `stage.0.h.3`."""


@dataclass(frozen=True)
class Remat:
    """Keep less.  The memory of the first blocks is held longest, so they are the first to be computed again whole."""

    name: ClassVar[str] = "remat"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    blocks: int | None = 0
    """Repeated blocks, from the first, of which only the input is kept (None: all); elsewhere elementwise and row ops
    are computed again."""

    def run(self, graph: Graph, context: Context) -> Graph:
        forward = _forward(graph)
        kept = _cut(graph, forward, blocks(graph)[: self.blocks])
        return _Again(graph, forward, kept, context).run()


def blocks(graph: Graph) -> list[str]:
    """The repeated blocks of the model, in order."""
    found = (BLOCK.match(n.origin) for n in graph.nodes if not isinstance(n.op, Leaf))
    return list(dict.fromkeys(m[0] for m in found if m))


def _block(node: Node) -> str:
    match = BLOCK.match(node.origin)
    return match[0] if match else ""


def _forward(graph: Graph) -> dict[str, Node]:
    """Name -> node of everything that the loss depends on, in order."""
    live = {o.value.name for o in graph.outputs if o.name == "loss"}
    found: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v.name in live for v in node.results):
            live.update(v.name for v in node.operands)
            found.append(node)
    return {n.name: n for n in reversed(found)}


def _cut(graph: Graph, forward: Mapping[str, Node], whole: Sequence[str]) -> frozenset[str]:
    """Names of the forward values to keep: the smallest set from which all that the backward pass reads can be made.

    Each value is an edge from ("make", v) to ("use", v) with its bytes as capacity.  What must not be made again hangs
    on the source, what the backward pass reads on the sink.  Among equal cuts networkx returns the one nearest to the
    sink, which leaves least to be done again.
    """
    net: nx.DiGraph[object] = nx.DiGraph()
    net.add_nodes_from(("source", "sink"))
    for node in forward.values():
        if isinstance(node.op, Leaf):
            continue
        for value in node.results:
            make, use = ("make", value.name), ("use", value.name)
            if isinstance(node.op, View):
                net.add_edge(make, use)
            else:
                net.add_edge(make, use, capacity=value.type.nbytes)
            if not _may_repeat(graph, forward, node, value, whole):
                net.add_edge("source", make)
            if any(user.name not in forward for user in graph.users[value.name]):
                net.add_edge(use, "sink")
            for operand in node.operands:
                if not isinstance(graph.producer[operand.name].op, Leaf):
                    net.add_edge(("use", operand.name), make)
    _, (_, later) = nx.minimum_cut(net, "source", "sink")
    return frozenset(
        v.name
        for n in forward.values()
        for v in n.results
        if ("use", v.name) in later and ("make", v.name) not in later
    )


def _may_repeat(graph: Graph, forward: Mapping[str, Node], node: Node, value: Value, whole: Sequence[str]) -> bool:
    """Whether a value may be made again rather than kept."""
    if isinstance(node.op, View):
        return True
    if _block(node) in whole:
        readers = [n for n in graph.users[value.name] if n.name in forward]
        return all(_block(n) == _block(node) for n in readers)
    if not isinstance(node.op, (Elementwise, RowOp)):
        return False
    return value.type.nbytes * SMALL > max((v.type.nbytes for v in node.operands), default=0)


class _Again:
    """One walk over the graph that puts copies of forward nodes in front of the backward nodes that read them."""

    def __init__(self, graph: Graph, forward: Mapping[str, Node], kept: frozenset[str], context: Context) -> None:
        self.graph = graph
        self.forward = forward
        self.kept = kept
        self.context = context
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.copies: dict[str, Value] = {}

    def run(self) -> Graph:
        for value in (v for n in self.forward.values() for v in n.results if v.name in self.kept):
            self.context.note(Remat.name, value, "kept for the backward pass", value.type.nbytes)
        for node in self.graph.nodes:
            self.context.node = node
            if node.name not in self.forward:
                node = replace(node, operands=tuple(map(self.available, node.operands)))
            self.b.add_node(node)
        return replace(self.graph, nodes=tuple(self.b.nodes))

    def available(self, value: Value) -> Value:
        """What a backward node reads for `value`: itself where it is still there, or a copy made here."""
        if self.is_there(value):
            return value
        if value.name not in self.copies:
            node = self.graph.producer[value.name]
            operands = tuple(map(self.available, node.operands))
            results = tuple(replace(v, name=self.b.fresh(f"{v.name}.again")) for v in node.results)
            self.b.add_node(replace(node, operands=operands, results=results, origin=f"again {node.origin}".rstrip()))
            self.copies |= dict(zip((v.name for v in node.results), results, strict=True))
            if not isinstance(node.op, View):
                self.context.done(Remat.name, value, f"computed again by {node.op.name}", value.type.nbytes)
        return self.copies[value.name]

    def is_there(self, value: Value) -> bool:
        """Whether a value needs no copy: made by the backward pass, a leaf, kept, or a view of such a value."""
        node = self.graph.producer[value.name]
        if node.name not in self.forward or isinstance(node.op, Leaf) or value.name in self.kept:
            return True
        return isinstance(node.op, View) and self.is_there(node.operands[0])
