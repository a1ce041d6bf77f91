"""Give every primitive the form that code generation knows: a region with one body.

Reads:    a graph at stage `precise` after `layout`: elementwise ops, row ops, reductions, matmul, broadcast_to.
Leaves:   stage `fused`: `map`, `row`, `column` and `gemm` regions, views, and ops with a kernel of their own.
Does:     turn constants into literals of the bodies; let operands broadcast by themselves.
Does not: merge anything; that is `fuse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from gptc.ir.body import Body, body
from gptc.ir.build import Builder
from gptc.ir.compose import bind
from gptc.ir.graph import Graph, Node, Value, drop_unused
from gptc.ir.op import Op
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.ops.leaf import Constant, Iota
from gptc.ir.ops.matmul import Matmul
from gptc.ir.ops.optimizer import Rule
from gptc.ir.ops.reduce import ReduceMean, ReduceSum
from gptc.ir.ops.region import ITSELF, Column, Gemm, Map, Region, Row
from gptc.ir.ops.row import RowOp
from gptc.ir.ops.shape import BroadcastTo, View
from gptc.ir.types import Dim, Shape, TensorType, broadcast

if TYPE_CHECKING:
    from gptc.passes.manager import Context

COPY = body("x", "y", "y = copy(x)")
INDEX = body("", "y", "y = col()")
SUM = body("x", "y", "y = row_sum(x)")
PRODUCT = Body(("acc",), (), ("acc",))


@dataclass(frozen=True)
class Lower:
    """See the module docstring."""

    name: ClassVar[str] = "lower"
    stages: ClassVar[tuple[str, str]] = ("precise", "fused")

    def run(self, graph: Graph, context: Context) -> Graph:
        b = Builder(graph.name)
        work = _Lowering(graph, b)
        for node in graph.nodes:
            work.lower(node)
        return drop_unused(replace(b.build("fused"), outputs=graph.outputs))


class _Lowering:
    """One walk over the graph; values keep their names, so nothing needs renaming."""

    def __init__(self, graph: Graph, b: Builder) -> None:
        self.graph = graph
        self.b = b
        self.rules: dict[type[Op], Callable[[Node], None]] = {
            BroadcastTo: self.broadcast_to,
            Iota: self.iota,
            ReduceSum: self.reduce_sum,
            ReduceMean: self.reduce_mean,
            Matmul: self.matmul,
        }

    def lower(self, node: Node) -> None:
        if isinstance(node.op, RowOp):
            space = broadcast(*(v.type.shape for v in node.operands)) or ()
            self.region(Row, node, node.op.body(), space, node.operands)
        elif isinstance(node.op, (Elementwise, Rule)):
            self.region(Map, node, node.op.body(), node.results[0].type.shape, node.operands)
        else:
            self.rules.get(type(node.op), self.b.add_node)(node)

    def region(
        self, kind: type[Region], node: Node, code: Body, space: Shape, operands: tuple[Value, ...], **attributes: int
    ) -> None:
        """Append a region that computes `code` over `space`, with literals for constant operands."""
        reads: list[tuple[str, Value]] = []
        literals: dict[str, float] = {}
        for name, value in zip(code.inputs, map(self.source, operands), strict=True):
            maker = self.graph.producer.get(value.name)
            if maker is not None and isinstance(maker.op, Constant):
                literals[name] = maker.op.value
            else:
                reads.append((name, value))
        reached = broadcast(*(v.type.shape for _, v in reads)) or ()
        op = kind(
            body=bind(code, literals),
            dtypes=tuple(str(v.type.dtype) for v in node.results),
            parts=(part_of(node),),
            shape=() if reached == space else tuple(map(int, space)),
            **attributes,
        )
        self.b.add_node(replace(node, op=op, operands=tuple(v for _, v in reads)))

    def source(self, value: Value) -> Value:
        """The value before a broadcast: regions broadcast by themselves."""
        maker = self.graph.producer.get(value.name)  # None: a view made here
        return self.source(maker.operands[0]) if maker is not None and isinstance(maker.op, BroadcastTo) else value

    def broadcast_to(self, node: Node) -> None:
        self.region(Map, node, COPY, node.results[0].type.shape, node.operands)

    def iota(self, node: Node) -> None:
        self.region(Map, node, INDEX, node.results[0].type.shape, ())

    def reduce_mean(self, node: Node) -> None:
        (x,) = node.operands
        code = body("x", "y", "y = x * share", share=1 / x.type.count)
        self.region(Column, node, code, x.type.shape, (x,), keep=0)

    def reduce_sum(self, node: Node) -> None:
        assert isinstance(node.op, ReduceSum)
        (x,) = node.operands
        count, shape = len(node.op.axes), x.type.shape
        if node.op.axes == tuple(range(count)):
            kept = x.type.with_shape(shape[count:])
            self.reshaped(node, kept, lambda n: self.region(Column, n, ITSELF, shape, (x,), keep=len(kept.shape)))
        else:
            rows, cols = shape[:-count], math.prod(shape[-count:])
            flat = x.type.with_shape((*rows, cols))
            (wide,) = (x,) if count == 1 else self.view(node, x, flat, f"{node.name}.flat")
            stat = x.type.with_shape((*rows, Dim(1)))
            self.reshaped(node, stat, lambda n: self.region(Row, n, SUM, flat.shape, (wide,)))

    def reshaped(self, node: Node, natural: TensorType, build: Callable[[Node], None]) -> None:
        """Build with the shape the region gives, then rename its axes if the node wants others."""
        (result,) = node.results
        if natural == result.type:
            build(node)
            return
        inner = Value(self.b.fresh(f"{result.name}.kept"), natural)
        build(replace(node, results=(inner,)))
        self.view(node, inner, result.type, result.name)

    def view(self, node: Node, x: Value, kind: TensorType, name: str) -> tuple[Value, ...]:
        op = View(shape=tuple(map(int, kind.shape)), strides=kind.steps)
        return self.b.add_node(replace(node, op=op, operands=(x,), results=(Value(name, kind),)))

    def matmul(self, node: Node) -> None:
        assert isinstance(node.op, Matmul)
        op = Gemm(
            body=PRODUCT,
            dtypes=(str(node.results[0].type.dtype),),
            parts=(part_of(node),),
            trans_a=node.op.trans_a,
            trans_b=node.op.trans_b,
        )
        self.b.add_node(replace(node, op=op))


def part_of(node: Node) -> str:
    """How a fused kernel names what went into it: the op, and its place in the model file."""
    return f"{node.op.name} {node.span.file}:{node.span.line}" if node.span else node.op.name
