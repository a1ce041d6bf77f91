"""What is done to many tensors alike is done by one kernel.

Reads:    a graph at stage `fused`.     Leaves: the same stage, with `foreach` in place of several nodes.
Does:     gather nodes of one op, with the same attributes, whose results nothing but members of other such groups reads
          before the last of them: the squares of all gradients, the updates of all parameters, the new keys and values
          of a block.
Does not: change what is computed, or the order of a sum: a tensor's result has the same bits in a group and alone.

A launch takes a GPU some microseconds, and most parameters are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.graph import Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops.foreach import Foreach, columns
from gptc.ir.types import DType, TensorType
from gptc.passes.manager import Context

SHARED = {"sum_squares": 0, "own_squares": 0, "own_share": 0, "adamw": 3, "cache_append": 1}
"""Op -> its last operands, which are the same for all nodes of a group; the others each node has of its own."""
ONE_SIZE = ("cache_append",)
"""Ops whose kernels take tensors of one shape at a time."""

MOST = 48
"""Sets of tensors whose addresses and sizes fit among the arguments of a kernel, of which there may be 4 KB."""

Key = tuple[Op, tuple[DType | TensorType, ...], tuple[Value, ...]]


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
        """The nodes, each group in front of what reads it, or where it became full, or at the end."""
        waiting = _Groups()
        for node in graph.nodes:
            if node.op.name not in SHARED:
                for value in node.operands:
                    yield from waiting.made(value)
                yield node
                continue
            own, shared = parts(node)
            kinds = tuple(v.type if node.op.name in ONE_SIZE else v.type.dtype for v in own)
            key = node.op, kinds, shared
            yield from waiting.join(node, key)
            if waiting.size(key) == self.most:
                yield from waiting.end(key)
        yield from waiting.rest()


class _Groups:
    """Nodes that wait for others of their kind."""

    def __init__(self) -> None:
        self.nodes: dict[Key, list[Node]] = {}
        self.member: dict[str, Key] = {}
        """Result of a node that waits -> its group."""

    def size(self, key: Key) -> int:
        return len(self.nodes.get(key, ()))

    def join(self, node: Node, key: Key) -> Iterator[Node]:
        """Let a node wait with those of its group, unless it reads what these make, if only through other groups."""
        if key in self.before(node.operands):
            yield from self.end(key)
        self.nodes.setdefault(key, []).append(node)
        self.member |= dict.fromkeys((v.name for v in node.results), key)

    def before(self, operands: Sequence[Value]) -> set[Key]:
        """The groups that must end before values are there."""
        found: set[Key] = set()
        left = list(operands)
        while left:
            key = self.member.get(left.pop().name)
            if key is not None and key not in found:
                found.add(key)
                left += [v for node in self.nodes[key] for v in node.operands]
        return found

    def made(self, value: Value) -> Iterator[Node]:
        """What must come in front of a reader of the value."""
        key = self.member.get(value.name)
        if key is not None:
            yield from self.end(key)

    def end(self, key: Key) -> Iterator[Node]:
        """The group as a node, behind those that it reads."""
        nodes = self.nodes.pop(key)
        for node in nodes:
            for value in node.results:
                del self.member[value.name]
        for node in nodes:
            for value in node.operands:
                yield from self.made(value)
        yield together(nodes)

    def rest(self) -> Iterator[Node]:
        """All that still waits."""
        while self.nodes:
            yield from self.end(next(iter(self.nodes)))


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
