"""What one kernel hands to the next is stored in the narrow format.

Reads:    a graph at stage `fused`, after `fuse`: now it is known which values reach memory.
Leaves:   the same stage.
Does:     under `bf16` and `f16`, let regions store f32 activations as such where only regions read them.  Inside a
          region values stay f32, so each is rounded once, when it is stored; what a region stored twice, as it is and
          rounded for a product, it stores once.
Does not: touch statistics, scalars, sums over rows (gradients of biases and norms), what the optimizer reads, what
          leaves the graph, or what is made of whole numbers alone: sines of positions are small and read by all blocks.

The residual stream and its gradient become bf16 too, as in llm.c: they are half of what the norms move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.compose import Wired, keep
from gptc.ir.graph import Graph, Node, Output, Value
from gptc.ir.ops.region import Column, Gemm, Region, Row
from gptc.ir.ops.shape import View
from gptc.ir.types import DType, TensorType
from gptc.passes.manager import Context
from gptc.passes.regions import ACC


@dataclass(frozen=True)
class Narrow:
    """See the module docstring."""

    name: ClassVar[str] = "narrow"
    stages: ClassVar[tuple[str, str]] = ("fused", "fused")

    policy: str = "f32"
    """`f32`: nothing; `bf16`, `f16`: activations are stored as such."""

    def run(self, graph: Graph, context: Context) -> Graph:
        return _Narrowing(graph, context, DType(self.policy)).run() if self.policy in ("bf16", "f16") else graph


class _Narrowing:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context, dtype: DType) -> None:
        self.graph = graph
        self.context = context
        self.dtype = dtype
        self.new: dict[str, Value] = {}
        """Name -> what stands for the value from now on."""
        self.tables: set[str] = set()
        """Values made of whole numbers alone."""

    def run(self) -> Graph:
        nodes = tuple(map(self.node, self.graph.nodes))
        outputs = tuple(Output(o.name, self.new.get(o.value.name, o.value)) for o in self.graph.outputs)
        return replace(self.graph, nodes=nodes, outputs=outputs)

    def node(self, node: Node) -> Node:
        """The node on the operands as they are now, its results as they will be stored."""
        operands = tuple(self.new.get(v.name, v) for v in node.operands)
        node = replace(node, operands=operands)
        if operands and all(v.name in self.tables or not v.type.dtype.is_float for v in operands):
            self.tables |= {v.name for v in node.results}
            return node
        if isinstance(node.op, View) and operands[0].type.dtype is not node.results[0].type.dtype:
            return replace(node, results=(self.narrowed(node.results[0]),))
        if not isinstance(node.op, Region) or isinstance(node.op, Column):
            return node
        results = tuple(self.narrowed(v) if self.may(v) else v for v in node.results)
        if results == node.results:
            return node
        self.context.done(Narrow.name, node, f"stores {self.dtype}", sum(v.type.nbytes for v in results))
        op = replace(node.op, dtypes=tuple(str(v.type.dtype) for v in results))
        return self.stored_once(replace(node, op=op, results=results))

    def narrowed(self, value: Value) -> Value:
        old = value.type
        self.new[value.name] = Value(value.name, TensorType.of(self.dtype, old.shape, old.strides))
        return self.new[value.name]

    def may(self, value: Value) -> bool:
        """Whether a value is an activation in f32 that only regions read, and none of them for good."""
        kind = value.type
        if kind.dtype is not DType.f32 or kind.rank < 2 or kind.shape[-1] == 1:
            return False
        if value.name in self.graph.output_names:
            return False
        readers = self.graph.users[value.name]
        return bool(readers) and all(self.passes_on(n, kind.count) for n in readers)

    def passes_on(self, reader: Node, count: int) -> bool:
        """Whether a reader of `count` elements is a region that does not keep as many, or a view for such regions."""
        kept = [v for v in reader.results if v.name in self.graph.output_names]
        if isinstance(reader.op, View):
            (view,) = reader.results
            return not kept and all(self.passes_on(n, count) for n in self.graph.users[view.name])
        return isinstance(reader.op, Region) and all(v.type.count < count for v in kept)

    def stored_once(self, node: Node) -> Node:
        """Without the results that are another one rounded, now that this one is rounded too."""
        op = node.op
        assert isinstance(op, Region)
        rounds = {s.result: str(s.args[0]) for s in op.body.stmts if s.fn == f"round_{self.dtype}"}
        held = {
            output: value
            for output, value in zip(op.body.outputs, node.results, strict=True)
            if value.type.dtype is self.dtype
        }
        twins = {value.name: held[rounds[o]] for o, value in held.items() if rounds.get(o, "") in held}
        if not twins:
            return node
        self.new |= twins
        factors = node.operands[:2] if isinstance(op, Gemm) else ()
        reads = ((ACC,) if factors else ()) + tuple(v.name for v in node.operands[len(factors) :])
        results = tuple(v for v in node.results if v.name not in twins)
        wired = keep(
            Wired(op.body, reads, tuple(v.name for v in node.results)),
            [v.name for v in results],
            pinned=op.body.inputs[:1] if factors else (),
        )
        dtypes = tuple(str(v.type.dtype) for v in results)
        op = replace(op, body=wired.code, dtypes=dtypes)
        if isinstance(op, Row):
            summed = {node.results[i].name for i in op.sums}
            op = replace(op, sums=tuple(i for i, v in enumerate(results) if v.name in summed))
        return replace(node, op=op, results=results)
