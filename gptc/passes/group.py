"""What is done to many tensors alike is done by one kernel.

Reads:    a graph at stage `fused`.     Leaves: the same stage, with `foreach` in place of several nodes.
Does:     gather nodes of one op, with the same attributes, whose results nothing reads before the last of them: the
          squares of all gradients, the updates of all parameters.
Does not: change what is computed, or the order of a sum: a tensor's result has the same bits in a group and alone.

A launch takes a GPU some microseconds, and most parameters are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.graph import Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops.foreach import Foreach, columns
from gptc.ir.types import DType
from gptc.passes.manager import Context

SHARED = {"sum_squares": 0, "adamw": 3}
"""Op -> its last operands, which are the same for all nodes of a group; the others each node has of its own."""

MOST = 48
"""Sets of tensors whose addresses and sizes fit among the arguments of a kernel, of which there may be 4 KB."""

Key = tuple[Op, tuple[DType, ...], tuple[Value, ...]]


@dataclass(frozen=True)
class Group:
    """See the module docstring."""

    name: ClassVar[str] = "group"
    stages: ClassVar[tuple[str, str]] = ("fused", "fused")

    most: int = MOST
    """Sets of tensors in a group."""

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = tuple(self.gathered(graph))
        for node in nodes:
            if isinstance(node.op, Foreach):
                size = sum(v.type.nbytes for v in node.operands)
                context.done(self.name, node, f"{node.op.times} {node.op.op.name} are one kernel", size)
        return replace(graph, nodes=nodes)

    def gathered(self, graph: Graph) -> Iterator[Node]:
        """The nodes, each group where its last member stood."""
        groups: dict[Key, list[Node]] = {}
        member: dict[str, Key] = {}
        for node in graph.nodes:
            for key in dict.fromkeys(member[v.name] for v in node.operands if v.name in member):
                if key in groups:  # it is read now
                    yield together(groups.pop(key))
            if node.op.name not in SHARED:
                yield node
                continue
            own, shared = parts(node)
            key = node.op, tuple(v.type.dtype for v in own), shared
            groups.setdefault(key, []).append(node)
            member |= dict.fromkeys((v.name for v in node.results), key)
            if len(groups[key]) == self.most:
                yield together(groups.pop(key))
        for nodes in groups.values():
            yield together(nodes)


def parts(node: Node) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """A node's own operands, and those that it shares with its group."""
    own = len(node.operands) - SHARED[node.op.name]
    return node.operands[:own], node.operands[own:]


def together(nodes: list[Node]) -> Node:
    """One node for all of them; a single one stays as it is."""
    first = nodes[0]
    if len(nodes) == 1:
        return first
    shared = parts(first)[1]
    op = Foreach(op=first.op, times=len(nodes), shared=len(shared))
    operands = (*columns([parts(n)[0] for n in nodes]), *shared)
    origin = f"{first.origin} and {len(nodes) - 1} more"
    return Node(op, operands, columns([n.results for n in nodes]), first.span, origin)
