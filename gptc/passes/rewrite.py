"""The greedy rewriting driver that `simplify` and `recognise` share.

A graph is rebuilt in order.  Each node, its operands already rewritten, is offered to the rules of its
op.  A rule answers with a value that already exists, with a better node for the same results, or with
None.  Rules see what precedes a node; sweeps repeat until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Output, Value
from gptc.ir.ops.leaf import Constant
from gptc.ir.ops.shape import BroadcastTo
from gptc.passes.manager import Context


class Rewriter:
    """One sweep: the graph being rebuilt, as rules see it."""

    def __init__(self, before: Graph, context: Context) -> None:
        self.before = before
        self.context = context
        self.b = Builder(before.name)
        self.b.reserve(v.name for v in before.values())
        self._replaced: dict[str, Value] = {}
        self._producer: dict[str, Node] = {}

    def producer(self, value: Value) -> Node:
        """The rebuilt node that defines `value`."""
        if value.name not in self._producer:  # built by a rule a moment ago
            self._producer = {v.name: n for n in self.b.nodes for v in n.results}
        return self._producer[value.name]

    def number(self, value: Value) -> float | None:
        """The number that a constant, or a constant spread over a shape, holds; None for anything else."""
        node = self.producer(value)
        if isinstance(node.op, BroadcastTo):
            return self.number(node.operands[0])
        return node.op.value if isinstance(node.op, Constant) else None

    def keep(self, node: Node) -> None:
        """Append a node as it is."""
        self.b.add_node(node)
        self._producer.update({v.name: node for v in node.results})

    def use(self, value: Value) -> Value:
        """What stands for `value` of the old graph in the new one."""
        return self._replaced.get(value.name, value)

    def sweep(self, rules: Mapping[str, Sequence[Rule]]) -> Graph:
        """Rebuild the graph."""
        for old in self.before.nodes:
            self.context.node = old
            node = with_operands(old, self.use)
            with self.b.place(node.span, node.origin):
                answer = next((a for rule in rules.get(node.op.name, ()) if (a := rule(self, node)) is not None), node)
            if isinstance(answer, Node):
                self.keep(answer)
            else:
                self._replaced[node.name] = answer
        outputs = tuple(Output(o.name, self.use(o.value)) for o in self.before.outputs)
        return replace(self.before, nodes=tuple(self.b.nodes), outputs=outputs)


def with_operands(node: Node, take: Callable[[Value], Value]) -> Node:
    """The node with what `take` makes of each operand; the very same node when they are not other ones."""
    operands = tuple(map(take, node.operands))
    return node if operands == node.operands else replace(node, operands=operands)


Rule = Callable[[Rewriter, Node], Value | Node | None]


def rewrite(graph: Graph, rules: Mapping[str, Sequence[Rule]], context: Context) -> Graph:
    """Sweep until no rule answers; unused nodes are left in place."""
    while (after := Rewriter(graph, context).sweep(rules)).nodes != graph.nodes:
        graph = after
    return graph
