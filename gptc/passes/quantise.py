"""Products read the parameters of a model as whole numbers.

Reads:    a forward graph at stage `built`.     Leaves: the same stage.
Does:     a parameter [N, K] that a product reads transposed becomes q i8[N, K] and scale f32[N], and the product that
          of q with its columns scaled.  Products of more than a few rows, whose kernels read floats, get q widened.
Does not: round activations, or touch parameters in other places; `store` decides what is kept of a parameter.

Dettmers et al., LLM.int8(), 2022: one scale a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Mul
from gptc.ir.ops.leaf import Buffer
from gptc.ir.ops.matmul import FEW_ROWS, Matmul
from gptc.ir.types import DType
from gptc.passes.manager import Context


@dataclass(frozen=True)
class Quantise:
    """See the module docstring."""

    name: ClassVar[str] = "quantise"
    stages: ClassVar[tuple[str, str]] = ("built", "built")

    def run(self, graph: Graph, context: Context) -> Graph:
        return _Quantising(graph, context).run()


class _Quantising:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.parts: dict[str, tuple[Value, Value]] = {}
        """Parameter -> q and scale."""

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self.context.node = node
            if isinstance(node.op, Matmul) and self.is_parameter(node.operands[1]):
                self.matmul(node, node.op)
            else:
                self.b.add_node(node)
        return replace(self.graph, nodes=tuple(self.b.nodes))

    def is_parameter(self, value: Value) -> bool:
        maker = self.graph.producer[value.name].op
        return isinstance(maker, Buffer) and maker.role == "param"

    def matmul(self, node: Node, op: Matmul) -> None:
        """Append the product on whole numbers, or as it is where a scale of each row of w would not factor out."""
        a, w = node.operands
        if op.trans_a or not op.trans_b or w.type.rank != 2:
            self.context.missed("quantise", node, f"%{w.name} is not read by rows: it stays f32", w.type.nbytes)
            self.b.add_node(node)
            return
        with self.b.place(node.span, node.origin):
            q, scale = self.quantised(w)
            if a.type.count > FEW_ROWS * int(w.type.shape[1]):
                q = self.b.cast(q, dtype=DType.f32, label=f"{w.name}.f32")
            (product,) = self.b.apply(op, (a, q), f"{node.name}.acc")
        self.b.add_node(replace(node, op=Mul(), operands=(product, scale)))

    def quantised(self, w: Value) -> tuple[Value, Value]:
        if w.name not in self.parts:
            self.parts[w.name] = self.b.quantise(w, label=f"{w.name}.i8")
            self.context.done("quantise", self.graph.producer[w.name], "in 8 bits", w.type.nbytes * 3 // 4)
        return self.parts[w.name]
