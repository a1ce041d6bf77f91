"""Parameters are kept in the form in which they are read.

Reads:    a graph at stage `precise`.     Leaves: the same stage.
Does:     a parameter of which products only read a cast becomes a buffer of that type; one that they read quantised,
          a buffer `<key>` in i8 and state `<key>.scale`, one scale a row.  Rows that are looked up in it are widened.
          The runtime converts f32 weights when it sets a parameter.
Does not: keep anything twice: a parameter that something reads in f32 stays f32, with a remark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Cast, Mul
from gptc.ir.ops.embedding import Embedding
from gptc.ir.ops.leaf import Buffer
from gptc.ir.ops.quantise import Quantise
from gptc.ir.types import DType, TensorType
from gptc.passes.manager import Context


@dataclass(frozen=True)
class Store:
    """See the module docstring."""

    name: ClassVar[str] = "store"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    def run(self, graph: Graph, context: Context) -> Graph:
        return _Storing(graph, context).run()


class _Storing:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.new: dict[str, Value] = {}
        """Parameter, or what was made of it -> what is kept."""
        self.scales: dict[str, Value] = {}
        """Parameter in i8 -> its scales, [N, 1]."""

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self.context.node = node
            if isinstance(node.op, Buffer) and node.op.role == "param":
                self.parameter(node, node.op)
            elif node.results[0].name in self.new:
                continue
            elif isinstance(node.op, Embedding) and node.operands[0].name in self.new:
                self.embedding(node)
            else:
                self.b.add_node(replace(node, operands=tuple(self.new.get(v.name, v) for v in node.operands)))
        return replace(self.graph, nodes=tuple(self.b.nodes))

    def parameter(self, node: Node, op: Buffer) -> None:
        """Append the buffer in the type in which it is read."""
        users = self.graph.users[node.name]
        makers = [n for n in users if isinstance(n.op, (Cast, Quantise))]
        others = [n for n in users if not isinstance(n.op, (Cast, Quantise, Embedding))]
        if len(makers) != 1 or others:
            if makers and others:
                self.context.missed(
                    "store", node, f"kept in f32: {others[0].op.name} reads it", node.results[0].type.nbytes
                )
            self.b.add_node(node)
            return
        (maker,) = makers
        kind = maker.results[0].type.dtype
        kept = Value(node.name, TensorType.of(kind, node.results[0].type.shape))
        self.b.add_node(replace(node, op=replace(op, dtype=kind), results=(kept,)))
        self.new |= {node.name: kept, maker.results[0].name: kept}
        saved = node.results[0].type.nbytes - kept.type.nbytes
        self.context.done("store", node, f"kept in {kind}", saved)
        if isinstance(maker.op, Quantise):
            self.scale(node, maker.results[1], f"{op.key}.scale")

    def scale(self, node: Node, old: Value, key: str) -> None:
        """The scales of a parameter's rows, as vector and as table."""
        with self.b.place(node.span, node.origin):
            shape = old.type.shape
            scale = self.b.buffer(key=key, role="state", dtype=DType.f32, shape=shape, label=key)
            self.new[old.name] = scale
            self.scales[node.name] = self.b.reshape(scale, shape=(*shape, 1))

    def embedding(self, node: Node) -> None:
        """Append the rows that are looked up, in f32 again."""
        table, ids = node.operands
        with self.b.place(node.span, node.origin):
            rows = self.b.embedding(self.new[table.name], ids, label=f"{node.name}.kept")
            if table.name in self.scales:
                wide = self.b.cast(rows, dtype=DType.f32, label=f"{node.name}.f32")
                scales = self.b.embedding(self.scales[table.name], ids, label=f"{node.name}.scale")
                self.b.add_node(replace(node, op=Mul(), operands=(wide, scales)))
            else:
                self.b.add_node(replace(node, op=Cast(DType.f32), operands=(rows,)))
