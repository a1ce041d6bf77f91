"""The policy of number formats becomes explicit casts.

Reads:    a graph at stage `differentiated`, or `built` when nothing is trained.       Leaves: stage `precise`.
Does:     under `bf16` and `f16`, matmul and attention, forward and backward, read that and sum in f32.  A tensor is
          cast once for all its readers, before it is split or transposed for them, so that the kernel that makes it can
          store it rounded.  What attention returns is rounded too, and is moved about as it is.  The sum over rows
          of what a product reads, the gradient of a bias, is of the rounded numbers, so that they need not be stored
          twice.
          Under `f32`, nothing; nor under `int8`, which is the business of `quantise`.
Does not: touch products, statistics, softmax, losses, other sums, the residual stream, gradients handed to the
          optimizer, or the parameters themselves, which all stay f32.

Micikevicius et al., Mixed Precision Training, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Cast
from gptc.ir.ops.reduce import ReduceSum
from gptc.ir.ops.shape import ShapeOp
from gptc.ir.types import DType
from gptc.passes.manager import Context, UserFault

NARROW = ("matmul", "attention", "attention_grad", "attention_cached", "cache_append")
"""Ops that read narrow operands and accumulate in f32."""


@dataclass(frozen=True)
class Precision:
    """Insert the casts of a policy."""

    name: ClassVar[str] = "precision"
    stages: ClassVar[tuple[str, str]] = ("differentiated", "precise")

    policy: str = "f32"
    """`f32`, `int8`, or `bf16` and `f16`: narrow operands for the products, f32 for everything else."""

    def run(self, graph: Graph, context: Context) -> Graph:
        if self.policy in ("f32", "int8"):
            return graph.at("precise")
        if self.policy not in ("bf16", "f16"):
            raise UserFault.of(f"no precision policy is called {self.policy!r}; there are f32, bf16, f16 and int8")
        return _Casting(graph, context, DType(self.policy)).run()


class _Casting:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context, dtype: DType) -> None:
        self.graph = graph
        self.context = context
        self.dtype = dtype
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.narrow: dict[str, Value] = {}
        """f32 value -> the same in the narrow format."""
        self.rounded: set[str] = set()
        """f32 values that were computed narrow."""
        self.factors = {self.base(v) for n in graph.nodes if n.op.name in NARROW for v in n.operands if _wide(v, n)}
        """f32 values that products read, maybe after they were moved about."""

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self.context.node = node
            moved = isinstance(node.op, ShapeOp) and all(v.name in self.rounded for v in node.operands)
            if node.op.name in NARROW or moved:
                self.compute(node)
            elif isinstance(node.op, ReduceSum) and 0 in node.op.axes and self.base(node.operands[0]) in self.factors:
                self.sum(node)
            else:
                self.b.add_node(node)
        return replace(self.graph, nodes=tuple(self.b.nodes), stage="precise")

    def compute(self, node: Node) -> None:
        """Append `node` on narrow operands; results that come out narrow are cast back under their names."""
        operands = tuple(self.narrowed(v) if _wide(v, node) else v for v in node.operands)
        for inner, wide in zip(self.append(node, operands), node.results, strict=True):
            if inner is not wide:
                self.b.add_node(Node(Cast(wide.type.dtype), (inner,), (wide,), node.span, node.origin))
                self.narrow[wide.name] = inner
                self.rounded.add(wide.name)

    def base(self, value: Value) -> str:
        """The name of the value before reshapes, transposes and splits."""
        maker = self.graph.producer[value.name]
        moved = isinstance(maker.op, ShapeOp) and len(maker.operands) == 1
        return self.base(maker.operands[0]) if moved else value.name

    def sum(self, node: Node) -> None:
        """Append a sum of rounded numbers."""
        (x,) = node.operands
        with self.b.place(node.span, node.origin):
            rounded = self.b.cast(self.narrowed(x), dtype=x.type.dtype, label=f"{x.name}.rounded")
        self.b.add_node(replace(node, operands=(rounded,)))

    def append(self, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        """Append `node` on other operands; results whose type changes get names of their own."""
        types = node.op.infer(*(v.type for v in operands))
        results = tuple(
            v if v.type == t else Value(self.b.fresh(f"{v.name}.{self.dtype}"), t)
            for v, t in zip(node.results, types, strict=True)
        )
        return self.b.add_node(replace(node, operands=operands, results=results))

    def narrowed(self, value: Value) -> Value:
        """The value in the narrow format: cast here, or moved here from what is cast."""
        if value.name not in self.narrow:
            maker = self.graph.producer[value.name]
            if isinstance(maker.op, ShapeOp):
                moved = self.append(maker, tuple(map(self.narrowed, maker.operands)))
                self.narrow.update(zip((v.name for v in maker.results), moved, strict=True))
            else:
                with self.b.place(maker.span, maker.origin):
                    self.narrow[value.name] = self.b.cast(value, dtype=self.dtype, label=f"{value.name}.{self.dtype}")
        return self.narrow[value.name]


def _wide(value: Value, node: Node) -> bool:
    """Whether an operand is to be narrowed: f32 data, not the statistics that attention hands to its gradient."""
    statistic = node.op.name == "attention_grad" and value is node.operands[-1]
    return value.type.dtype is DType.f32 and not statistic
