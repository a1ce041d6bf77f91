"""Transposes, reshapes, flips and splits become indexing.

Reads:    a graph at stage `precise` (an earlier one will do).       Leaves: the same stage; no `reshape`,
          `transpose`, `flip` or `split`, and a `concat` only where its pieces lie apart.
Does:     fold chains of them into one `view` of the tensor at their start, for readers that take strides; let
          attention write merged heads, and its gradient the joint gradient of q, k and v, so that what follows
          is a view too; turn a transposed factor of a matmul into its flag.
Does not: give strides to readers that need dense rows: those get a `copy`, with a remark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from gptc.ir.graph import Graph, Node, Output, Value, drop_unused
from gptc.ir.op import Op
from gptc.ir.ops.attention import Attention, AttentionGrad, merged_type
from gptc.ir.ops.cache import AttentionCached, CacheAppend
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.ops.matmul import Matmul
from gptc.ir.ops.shape import Concat, Flip, Reshape, Split, Transpose, View
from gptc.passes.manager import Context
from gptc.passes.rewrite import with_operands
from gptc.passes.strided import Places, Strided, join

HEADS_INWARD = (0, 2, 1, 3)
"""[B, H, T, D] <-> [B, T, H, D]."""

Rule = Callable[[Node], Node | None]
"""Takes a node; returns what to append in its place, if anything."""


@dataclass(frozen=True)
class Layout:
    """See the module docstring."""

    name: ClassVar[str] = "layout"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    def run(self, graph: Graph, context: Context) -> Graph:
        return drop_unused(_Folding(graph, context).run())


class _Folding:
    """One walk over the graph."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.places = Places(graph, context)
        self.rules: dict[type[Op], Rule] = {
            View: self.view,
            Reshape: self.reshape,
            Transpose: self.transpose,
            Flip: self.flip,
            Split: self.split,
            Concat: self.concat,
            Attention: self.attention,
            AttentionCached: self.attention,
            AttentionGrad: self.attention_grad,
            CacheAppend: self.cache_append,
            Matmul: self.matmul,
        }

    def run(self) -> Graph:
        b = self.places.b
        for node in self.graph.nodes:
            self.context.node = node
            default = self.elementwise if isinstance(node.op, Elementwise) else self.dense
            if (new := self.rules.get(type(node.op), default)(node)) is not None:
                b.add_node(new)
        outputs = tuple(
            Output(o.name, self.places.dense(o.value, self.graph.producer[o.value.name])) for o in self.graph.outputs
        )
        return replace(self.graph, nodes=tuple(b.nodes), outputs=outputs)

    # -- nodes that only say where elements are ----------------------------------------------------------------

    def view(self, node: Node) -> None:
        assert isinstance(node.op, View)
        base = self.places.dense(node.operands[0], node)
        self.places.put(node.results[0], Strided(base, node.results[0].type.shape, node.op.strides, node.op.offset))

    def reshape(self, node: Node) -> None:
        (x,), (y,) = node.operands, node.results
        place = self.places.of(x).reshape(y.type.shape)
        if place is None:
            place = Strided(self.places.dense(x, node), y.type.shape, y.type.steps)
        self.places.put(y, place)

    def transpose(self, node: Node) -> None:
        assert isinstance(node.op, Transpose)
        self.places.put(node.results[0], self.places.of(node.operands[0]).transpose(node.op.perm))

    def flip(self, node: Node) -> None:
        assert isinstance(node.op, Flip)
        self.places.put(node.results[0], self.places.of(node.operands[0]).flip(node.op.axis))

    def split(self, node: Node) -> None:
        assert isinstance(node.op, Split)
        (x,) = node.operands
        pieces = self.places.of(x).split(node.op.axis, node.op.lengths(x.type))
        for value, piece in zip(node.results, pieces, strict=True):
            self.places.put(value, piece)

    def concat(self, node: Node) -> Node | None:
        assert isinstance(node.op, Concat)
        whole = join([self.places.of(v) for v in node.operands], node.op.axis)
        if whole is None:
            self.context.missed("layout", node, "the pieces lie apart: they are copied", node.results[0].type.nbytes)
            return self.dense(node)
        self.places.put(node.results[0], whole)
        return None

    # -- nodes that read elements ------------------------------------------------------------------------------

    def dense(self, node: Node) -> Node:
        return with_operands(node, partial(self.places.dense, reader=node))

    def elementwise(self, node: Node) -> Node:
        return with_operands(node, partial(self.places.strided, reader=node))

    def attention(self, node: Node) -> Node:
        """Heads that are merged next are written merged."""
        assert isinstance(node.op, (Attention, AttentionCached))
        op, (out, *statistics) = node.op, node.results
        node = with_operands(node, partial(self.places.rows, reader=node))
        if not any(u.op == Transpose(HEADS_INWARD) for u in self.graph.users[out.name]):
            return node
        merged = Value(out.name, merged_type(out.type))
        self.places.put(out, Strided.whole(merged))
        self.context.done("layout", node, "writes its heads merged", out.type.nbytes)
        return replace(node, op=replace(op, merged=True), results=(merged, *statistics))

    def cache_append(self, node: Node) -> Node:
        """New keys or values are read where the projection left them."""
        return with_operands(node, partial(self.places.rows, reader=node))

    def attention_grad(self, node: Node) -> Node:
        """Gradients whose heads are merged next are written as one [B, T, (H + 2 Hkv) D]."""
        assert isinstance(node.op, AttentionGrad)
        new = with_operands(node, partial(self.places.rows, reader=node))
        if not self.merged(node):
            return new
        op = replace(node.op, packed=True)
        (kind,) = op.infer(*(v.type for v in new.operands))
        packed = Value(self.places.b.fresh(f"{node.name}.qkv"), kind)
        batch, length, width = kind.shape
        start = 0
        for value in node.results:
            heads, size = value.type.shape[1], value.type.shape[3]
            heads_inward = Strided(packed, (batch, length, heads, size), (length * width, width, size, 1), start)
            self.places.put(value, heads_inward.transpose(HEADS_INWARD))
            start += heads * size
        self.context.done("layout", node, "writes the joint gradient of q, k and v", kind.nbytes)
        return replace(new, op=op, results=(packed,))

    def merged(self, node: Node) -> bool:
        """Whether dq, dk and dv are all wanted in the order of positions, and none as it is."""
        readers = [self.graph.users[v.name] for v in node.results]
        return all(users and all(u.op == Transpose(HEADS_INWARD) for u in users) for users in readers)

    def matmul(self, node: Node) -> Node:
        """Factors may be strided as long as one of their last two axes has neighbours for elements."""
        assert isinstance(node.op, Matmul)
        a, b = node.operands
        flip_a = self.places.is_turned(a) and not (a.type.rank > 2 and b.type.rank == 2)
        flip_b = self.places.is_turned(b)
        op = Matmul(trans_a=node.op.trans_a != flip_a, trans_b=node.op.trans_b != flip_b)
        operands = tuple(
            self.places.turned(v, node) if flip else self.places.rows(v, node) for v, flip in ((a, flip_a), (b, flip_b))
        )
        return replace(node, op=op, operands=operands)
