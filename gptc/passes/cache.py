"""From a whole sequence to the next few tokens of it.

Reads:    the recognised forward graph of a sequence, `tokens` i32[B,T] -> `logits` f32[B,T,Vp].
Leaves:   stage `built`: the forward graph of S tokens at any positions of that sequence.  Inputs `tokens` i32[B,S] and
          `positions` i32[S], or for S = 1 `token` and `position`; state `<block>.k` and `<block>.v` for each attention,
          [B,Hkv,T,D]; output `logits` f32[B,1,Vp] of one token a sequence: for S > 1 row `last` i32[B,1] of [B*S].
Does:     follow the axis of positions through the graph and cut it to S; let attention append its keys and values to
          the caches and read those; pick the token asked for before the logits are computed.
Does not: accept anything but causal attention that lets one position see another: `obstacle` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from math import prod
from typing import ClassVar

from gptc.ir.analysis import buffers
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value, drop_unused
from gptc.ir.op import Op
from gptc.ir.ops.attention import Attention
from gptc.ir.ops.elementwise import CausalMask, Elementwise
from gptc.ir.ops.embedding import Embedding
from gptc.ir.ops.leaf import Input, Iota
from gptc.ir.ops.matmul import Matmul
from gptc.ir.ops.reduce import ReduceSum
from gptc.ir.ops.row import RowOp
from gptc.ir.ops.shape import Concat, Flip, Reshape, Split, Transpose
from gptc.ir.ops.softmax import Softmax
from gptc.ir.types import DType
from gptc.passes.manager import Context


class Mixed(Exception):
    """A node needs more of other positions than caches keep."""


@dataclass(frozen=True)
class Cache:
    """See the module docstring."""

    name: ClassVar[str] = "cache"
    stages: ClassVar[tuple[str, str]] = ("built", "built")

    tokens: int = 1
    """S: how many tokens one call takes."""
    dtype: str = "f32"
    """What keys and values are kept in: `f32`, `bf16` or `f16`."""

    def run(self, graph: Graph, context: Context) -> Graph:
        after = _Shortening(graph, self.tokens, DType(self.dtype)).run(context)
        for node in after.nodes:
            if node.op.name == "attention_cached":
                size = 2 * node.operands[1].type.nbytes
                context.done("cache", node, "reads the keys and values of earlier tokens from caches", size)
        return after


def obstacle(graph: Graph) -> tuple[Node, str] | None:
    """The first node that keeps a model from computing token by token, and why; None if there is none."""
    context = Context()
    try:
        _Shortening(graph, 1, DType.f32).run(context)
    except Mixed as reason:
        return context.node or graph.nodes[-1], str(reason)
    return None


Cut = tuple[Op, int]
"""The op that a node becomes, and the axis of positions in its results."""


class _Shortening:
    """One walk over the graph.  `axis` has the axis of positions of each value that has one."""

    def __init__(self, graph: Graph, tokens: int, dtype: DType) -> None:
        self.graph = graph
        self.tokens = tokens
        self.dtype = dtype
        self.length = next((int(n.op.shape[1]) for n in graph.nodes if _is_tokens(n)), 0)  # type: ignore[attr-defined]
        self.b = Builder(graph.name)
        self.b.reserve(v.name for n in graph.nodes if not isinstance(n.op, (Input, Iota)) for v in n.results)
        self.keys = set(buffers(graph))
        self.axis: dict[str, int] = {}
        self.new: dict[str, Value] = {}
        self.rows: dict[str, Value] = {}
        """What stands for tables that the node at hand reads by position."""
        self.positions: Value = self.input("position", (tokens,))
        self.rules: tuple[tuple[type[Op], Callable[[Node], Cut]], ...] = (
            (CausalMask, self.mixed),
            (Elementwise, self.aligned),
            (RowOp, self.row),
            (Embedding, self.embedding),
            (Matmul, self.matmul),
            (Reshape, self.reshape),
            (Transpose, self.transpose),
            (Split, self.along_axis),
            (Flip, self.along_axis),
            (Concat, self.concat),
            (ReduceSum, self.reduce_sum),
        )

    def run(self, context: Context) -> Graph:
        if self.length < 2:
            raise Mixed("a sequence of one token has no earlier ones")
        for node in self.graph.nodes:
            context.node = node
            with self.b.place(node.span, node.origin):
                self.node(node)
        context.node = None
        (output,) = self.graph.outputs
        if self.axis.get(output.value.name) != 1:
            raise Mixed(f"%{output.value.name} has no positions along its second axis")
        logits = self.operand(output.value)
        self.b.output(output.name, self.last(logits) if self.tokens > 1 else logits)
        return drop_unused(replace(self.graph, nodes=tuple(self.b.nodes), outputs=tuple(self.b.outputs)))

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """An i32 input; its name is in the plural where calls take several tokens."""
        key = name if self.tokens == 1 else f"{name}s"
        value: Value = self.b.input(key=key, dtype=DType.i32, shape=tuple(shape), label=key)
        return value

    def node(self, node: Node) -> None:
        """Append what computes the same for S tokens."""
        op = node.op
        if isinstance(op, Input):
            if not _is_tokens(node):
                raise Mixed(f"the input {op.key!r} is no token")
            self.put(node.results, (self.input("token", (op.shape[0], self.tokens)),), 1)
        elif isinstance(op, Iota) and op.count == self.length:
            self.put(node.results, (self.positions,), 0)
        elif not any(v.name in self.axis for v in node.operands):
            self.b.add_node(node)
            self.new |= {v.name: v for v in node.results}
        elif isinstance(op, Attention):
            self.attention(node)
        else:
            rule = next((rule for kind, rule in self.rules if isinstance(op, kind)), self.mixed)
            new, axis = rule(node)
            operands = tuple(self.rows.get(v.name) or self.operand(v) for v in node.operands)
            self.rows.clear()
            kinds = new.infer(*(v.type for v in operands))
            results = tuple(Value(v.name, kind) for v, kind in zip(node.results, kinds, strict=True))
            self.put(node.results, self.b.add_node(replace(node, op=new, operands=operands, results=results)), axis)

    def put(self, old: Sequence[Value], new: Sequence[Value], axis: int) -> None:
        """`new` stands for `old`, cut along `axis`."""
        for before, after in zip(old, new, strict=True):
            self.new[before.name] = after
            self.axis[before.name] = axis

    def operand(self, value: Value) -> Value:
        """What stands for a value of the whole sequence."""
        if value.name not in self.new:
            raise Mixed(f"%{value.name} is not kept for earlier tokens")
        return self.new[value.name]

    # -- how each kind of op carries the axis of positions ------------------------------------------------------

    def mixed(self, node: Node) -> Cut:
        raise Mixed(f"{node.op.name} of %{node.name} may mix positions in a way that caches cannot serve")

    def only(self, node: Node, index: int) -> int:
        """The axis of one operand, which must be the only one that has positions."""
        if [i for i, v in enumerate(node.operands) if v.name in self.axis] != [index]:
            self.mixed(node)
        return self.axis[node.operands[index].name]

    def aligned(self, node: Node) -> Cut:
        """Operands broadcast against each other: all have positions on the same axis, counted from the last.

        A table [T, C] without positions gives the rows of those asked for.
        """
        ends = {self.axis[v.name] - v.type.rank for v in node.operands if v.name in self.axis}
        end = min(ends)
        fixed = [v for v in node.operands if v.name not in self.axis and v.type.rank >= -end]
        for value in (v for v in fixed if v.type.shape[end] != 1):
            if value.type.rank != 2 or end != -2:
                self.mixed(node)
            self.rows[value.name] = self.b.embedding(self.operand(value), self.positions, label=f"{value.name}.rows")
        if len(ends) > 1:
            self.mixed(node)
        return node.op, max(v.type.rank for v in node.operands) + end

    def row(self, node: Node) -> Cut:
        """As elementwise, and rows do not run along the positions."""
        op, axis = self.aligned(node)
        if axis == max(v.type.rank for v in node.operands) - 1 or op == Softmax(causal=True):
            self.mixed(node)
        return op, axis

    def embedding(self, node: Node) -> Cut:
        return node.op, self.only(node, 1)

    def matmul(self, node: Node) -> Cut:
        """Positions are rows of the left factor."""
        axis, left = self.only(node, 0), node.operands[0].type
        assert isinstance(node.op, Matmul)
        if axis == left.rank - 1 or node.op.trans_a or node.operands[1].type.rank > 2:
            self.mixed(node)
        return node.op, axis

    def reshape(self, node: Node) -> Cut:
        """Positions stay an axis of their own, with as many elements before it."""
        axis = self.only(node, 0)
        old, new = node.operands[0].type.shape, node.results[0].type.shape
        for at, size in enumerate(new):
            if size == self.length and prod(new[:at]) == prod(old[:axis]):
                return Reshape((*new[:at], self.tokens, *new[at + 1 :])), at
        return self.mixed(node)

    def transpose(self, node: Node) -> Cut:
        assert isinstance(node.op, Transpose)
        return node.op, node.op.perm.index(self.only(node, 0))

    def along_axis(self, node: Node) -> Cut:
        """What rearranges along one axis may do so along any but that of the positions."""
        assert isinstance(node.op, (Split, Flip))
        axis = self.only(node, 0)
        if node.op.axis % node.operands[0].type.rank == axis:
            self.mixed(node)
        return node.op, axis

    def concat(self, node: Node) -> Cut:
        assert isinstance(node.op, Concat)
        axes = {self.axis.get(v.name, -1) for v in node.operands}
        if len(axes) > 1 or node.op.axis % node.operands[0].type.rank in axes:
            self.mixed(node)
        return node.op, axes.pop()

    def reduce_sum(self, node: Node) -> Cut:
        assert isinstance(node.op, ReduceSum)
        axis = self.only(node, 0)
        if axis in node.op.axes:
            self.mixed(node)
        return node.op, axis if node.op.keepdims else axis - sum(a < axis for a in node.op.axes)

    # -- caches ----------------------------------------------------------------------------------------------------

    def attention(self, node: Node) -> None:
        """Keys and values join those of earlier tokens; no statistics, which only gradients read."""
        assert isinstance(node.op, Attention)
        if not node.op.causal or any(self.axis.get(v.name) != 2 for v in node.operands):
            self.mixed(node)
        q, k, v = map(self.operand, node.operands)
        caches = tuple(self.append(node, name, x) for name, x in (("k", k), ("v", v)))
        out = self.b.attention_cached(q, *caches, self.positions, scale=node.op.scale, label=f"{node.name}.cached")
        self.put(node.results[:1], (out,), 2)

    def append(self, node: Node, name: str, x: Value) -> Value:
        """The cache `<block>.<name>` with x in it."""
        stem = f"{node.origin}.{name}"
        key = next(key for key in chain([stem], (f"{stem}{i}" for i in count(1))) if key not in self.keys)
        self.keys.add(key)
        batch, heads, _, size = x.type.shape
        shape = (batch, heads, self.length, size)
        cache = self.b.buffer(key=key, role="state", dtype=self.dtype, shape=shape, label=f"{key}.cache")
        grown: Value = self.b.cache_append(cache, x, self.positions, label=f"{key}.grown")
        self.b.output(key, grown)
        return grown

    # -- the token whose logits are wanted ---------------------------------------------------------------------------

    def last(self, logits: Value) -> Value:
        """The rows `last` of the logits, picked from what the last product multiplies where it makes them."""
        producer = {v.name: n for n in self.b.nodes for v in n.results}
        batch = int(logits.type.shape[0])
        rows = self.b.input(key="last", dtype=DType.i32, shape=(batch, 1), label="last")

        def pick(value: Value) -> Value:
            node = producer[value.name]
            with self.b.place(node.span, node.origin):
                if isinstance(node.op, Matmul):
                    left, right = node.operands
                    (picked,) = self.b.apply(node.op, (pick_row(left), right), f"{node.name}.last")
                    return picked
                return pick_row(value)

        def pick_row(x: Value) -> Value:
            flat = self.b.reshape(x, shape=(batch * self.tokens, x.type.shape[2]))
            row: Value = self.b.embedding(flat, rows, label=f"{x.name}.last")
            return row

        return pick(logits)


def _is_tokens(node: Node) -> bool:
    return isinstance(node.op, Input) and node.op.key == "tokens"
