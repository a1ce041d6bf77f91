"""The policy of number formats becomes explicit casts.

Reads:    a graph at stage `differentiated`, or `built` when nothing is trained.       Leaves: stage `precise`.
Does:     under `bf16`, the operands of matmul, attention and embedding, forward and backward, are cast to bf16 and
          their results back to f32; a tensor is cast once for all its readers.  Under `f32`, nothing.
Does not: touch statistics, softmax, losses, sums, gradients handed to the optimizer, or the parameters themselves,
          which all stay f32.

Micikevicius et al., Mixed Precision Training, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Cast
from gptc.ir.types import DType
from gptc.passes.manager import Context, UserFault

NARROW = ("matmul", "attention", "attention_grad", "embedding")
"""Ops that compute on narrow operands and accumulate in f32."""


@dataclass(frozen=True)
class Precision:
    """Insert the casts of a policy."""

    name: ClassVar[str] = "precision"
    stages: ClassVar[tuple[str, str]] = ("differentiated", "precise")

    policy: str = "f32"
    """`f32`, or `bf16`: narrow operands for the products, f32 for everything else."""

    def run(self, graph: Graph, context: Context) -> Graph:
        if self.policy == "f32":
            return graph.at("precise")
        if self.policy != "bf16":
            raise UserFault.of(f"no precision policy is called {self.policy!r}; there are f32 and bf16")
        return _Casting(graph, context).run(DType.bf16)


class _Casting:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.narrow: dict[str, Value] = {}
        """f32 value -> the same in the narrow format."""

    def run(self, dtype: DType) -> Graph:
        for node in self.graph.nodes:
            self.context.node = node
            if node.op.name in NARROW:
                with self.b.place(node.span, node.origin):
                    self.cast(node, dtype)
            else:
                self.b.add_node(node)
        return replace(self.graph, nodes=tuple(self.b.nodes), stage="precise")

    def cast(self, node: Node, dtype: DType) -> None:
        """Append `node` on narrow operands; its results keep their names and their type."""
        operands = tuple(self.narrowed(v, dtype) if _wide(v, node) else v for v in node.operands)
        types = node.op.infer(*(v.type for v in operands))
        inner = tuple(
            v if v.type == t else Value(self.b.fresh(f"{v.name}.{dtype}"), t)
            for v, t in zip(node.results, types, strict=True)
        )
        self.b.add_node(replace(node, operands=operands, results=inner))
        for narrow, wide in zip(inner, node.results, strict=True):
            if narrow is not wide:
                self.b.add_node(Node(Cast(wide.type.dtype), (narrow,), (wide,), node.span, node.origin))

    def narrowed(self, value: Value, dtype: DType) -> Value:
        if value.name not in self.narrow:
            self.narrow[value.name] = self.b.cast(value, dtype=dtype, label=f"{value.name}.{dtype}")
        return self.narrow[value.name]


def _wide(value: Value, node: Node) -> bool:
    """Whether an operand is to be narrowed: f32 data, not the statistics that attention hands to its gradient."""
    statistic = node.op.name == "attention_grad" and value is node.operands[-1]
    return value.type.dtype is DType.f32 and not statistic
