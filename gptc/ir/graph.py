"""The graph: nodes in execution order, in static single assignment form.

Grammar (the text form `.gir` spells exactly this, see `gptc.ir.text`):

    graph   := name stage node* output*            nodes are in a valid execution order
    node    := value+ "=" op attributes operand*   a node has one or more results
    value   := name type                           every name is defined once
    output  := name value                          a `buffer` of that name: the value is stored into it;
                                                   otherwise a result handed to the caller
    leaf    := input | buffer | constant | iota    nodes without operands

Graphs are immutable; a pass builds a new one.  Operand tuples are the truth about edges, so `mul(x, x)`
keeps both of its edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from gptc.errors import Span
from gptc.ir.op import Op
from gptc.ir.types import TensorType

STAGES = ("built", "differentiated", "precise", "fused", "scheduled", "planned")
"""What a graph has been through, in order; `gptc.ir.verify` says what each allows."""


@dataclass(frozen=True)
class Value:
    """One result of one node."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Node:
    """One application of an op.  `origin` is the place in the model, such as `h.3` or `d h.3`."""

    op: Op
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    span: Span | None = None
    origin: str = ""

    @property
    def name(self) -> str:
        """The name of the first result identifies the node."""
        return self.results[0].name


@dataclass(frozen=True)
class Output:
    """A value that leaves the graph under a name."""

    name: str
    value: Value


@dataclass(frozen=True)
class Placement:
    """Where a value lives: a segment of `docs/contracts.md` and a byte offset in it."""

    segment: str
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}+{self.offset}"


@dataclass(frozen=True)
class Graph:
    """A program.  `plan` is filled by the memory pass."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    stage: str = "built"
    plan: Mapping[str, Placement] = field(default_factory=dict)

    @cached_property
    def producer(self) -> dict[str, Node]:
        """Value name -> the node that defines it."""
        return {v.name: n for n in self.nodes for v in n.results}

    @cached_property
    def users(self) -> dict[str, tuple[Node, ...]]:
        """Value name -> the nodes that read it, in execution order, each once."""
        found: dict[str, list[Node]] = {v.name: [] for n in self.nodes for v in n.results}
        for node in self.nodes:
            for name in dict.fromkeys(v.name for v in node.operands):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def output_names(self) -> frozenset[str]:
        """Names of the values that leave the graph."""
        return frozenset(o.value.name for o in self.outputs)

    def values(self) -> Iterator[Value]:
        """Every value, in definition order."""
        return (v for n in self.nodes for v in n.results)

    def at(self, stage: str) -> Graph:
        """The same graph, declared to be at `stage`."""
        return replace(self, stage=stage)


def drop_unused(graph: Graph) -> Graph:
    """Without the nodes that no output depends on.  Buffers stay, whether a program reads them or not."""
    live = {o.value.name for o in graph.outputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.op.name == "buffer" or any(v.name in live for v in node.results):
            kept.append(node)
            live.update(v.name for v in node.operands)
    return replace(graph, nodes=tuple(reversed(kept)))
