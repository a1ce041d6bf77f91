"""Random valid graphs: a forward pass of 3 to 30 steps, ending in the scalar output `loss`.

Values stay moderate (steps that multiply are gated or normalised first), so that float32 and float64 runs can be
compared and gradients exist: `graphs()` draws a graph, `feeds(graph, seed)` makes arrays for its leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Value
from gptc.ir.ops.embedding import Embedding
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.ops.loss import CrossEntropy
from gptc.ir.types import Array, Dim, DType, TensorType
from gptc.model.functions import ModelBuilder, rope

VOCABULARY = 11


@dataclass
class Growing:
    """A graph under construction; `pool` are the values that a step may take."""

    draw: st.DrawFn
    b: ModelBuilder
    pool: list[Value] = field(default_factory=list)
    params: int = 0

    def pick(self, rank: int = 0) -> Value:
        """A value of at least this rank; the first of the pool has rank 3."""
        return self.draw(st.sampled_from([v for v in self.pool if v.type.rank >= rank]))

    def size(self, low: int = 1, high: int = 6) -> int:
        return self.draw(st.integers(low, high))

    def param(self, *shape: int) -> Value:
        self.params += 1
        key = f"p{self.params}"
        value: Value = self.b.buffer(label=key, key=key, shape=shape, valid=shape, init="normal(0.02)")
        return value

    def linear(self, x: Value, width: int) -> Value:
        """x w^T or x w, with a new w."""
        fan_in, trans = x.type.shape[-1], self.draw(st.booleans())
        w = self.param(width, fan_in) if trans else self.param(fan_in, width)
        y: Value = self.b.matmul(x, w, trans_b=trans)
        return y


Step = Callable[[Growing], Value]


def unary(g: Growing) -> Value:
    name = g.draw(st.sampled_from(["neg", "tanh", "sin", "cos", "sigmoid", "relu", "gelu", "silu", "copy"]))
    y: Value = getattr(g.b, name)(g.pick())
    return y


def exponential(g: Growing) -> Value:
    y: Value = g.b.exp(g.b.tanh(g.pick()))
    return y


def residual(g: Growing) -> Value:
    x = g.pick()
    others = [v for v in g.pool if v.type == x.type]
    op = g.draw(st.sampled_from([g.b.add, g.b.sub]))
    y: Value = op(x, g.draw(st.sampled_from(others)))
    return y


def gate(g: Growing) -> Value:
    """A product with a factor in (0, 1) that broadcasts in one of NumPy's ways."""
    x = g.pick(1)
    shape = x.type.shape
    shapes = [shape, shape[-1:], (*shape[:-1], Dim(1)), ()]
    y: Value = g.b.mul(x, g.b.sigmoid(g.param(*g.draw(st.sampled_from(shapes)))))
    return y


def quotient(g: Growing) -> Value:
    x = g.pick()
    y: Value = g.b.div(x, g.b.add(g.b.scalar(1.5), g.b.sigmoid(x)))
    return y


def bias(g: Growing) -> Value:
    x = g.pick(1)
    y: Value = g.b.add(x, g.param(x.type.shape[-1]))
    return y


def scaled(g: Growing) -> Value:
    y: Value = g.b.mul(g.pick(), g.b.scalar(g.draw(st.sampled_from([0.5, -1.25, 1.0, 0.0]))))
    return y


def norm(g: Growing) -> Value:
    x = g.pick(1)
    gain = g.param(x.type.shape[-1])
    if g.draw(st.booleans()):
        return g.b.layer_norm(x, gain, g.param(x.type.shape[-1]), eps=0.1)[0]  # type: ignore[no-any-return]
    return g.b.rms_norm(x, gain, eps=0.1)[0]  # type: ignore[no-any-return]


def softmax(g: Growing) -> Value:
    x = g.pick(1)
    causal = x.type.rank >= 2 and g.draw(st.booleans())
    y: Value = g.b.softmax(x, causal=causal)
    return y


def dense(g: Growing) -> Value:
    return g.linear(g.pick(2), g.size())


def perceptron(g: Growing) -> Value:
    x = g.pick(2)
    hidden = g.linear(x, g.size())
    hidden = g.b.gelu(g.b.add(hidden, g.param(hidden.type.shape[-1])))
    y: Value = g.b.add(x, g.linear(hidden, x.type.shape[-1]))
    return y


def attention(g: Growing) -> Value:
    """Heads, maybe turned by their positions, scores, mask, softmax, mix, merge: as a model spells it."""
    b, x = g.b, g.pool[0]
    batch, length, _ = x.type.shape
    heads, size = g.size(1, 3), g.size(1, 4)

    def split_heads(y: Value) -> Value:
        cut = b.reshape(y, shape=(batch, length, heads, size))
        parts: Value = b.transpose(cut, perm=(0, 2, 1, 3))
        return parts

    if g.draw(st.booleans()):
        joint = g.linear(x, 3 * heads * size)
        q, k, v = map(split_heads, b.split(joint, parts=3))
    else:
        q, k, v = (split_heads(g.linear(x, heads * size)) for _ in range(3))
    if size % 2 == 0 and g.draw(st.booleans()):
        q, k = (rope(b, x, b.iota(count=int(length))) for x in (q, k))
    scores = b.mul(b.matmul(q, k, trans_b=True), b.scalar(1 / math.sqrt(size)))
    if g.draw(st.booleans()):
        scores = b.causal_mask(scores)
    mixed = b.transpose(b.matmul(b.softmax(scores), v), perm=(0, 2, 1, 3))
    merged = b.reshape(mixed, shape=(batch, length, heads * size))
    y: Value = b.add(x, g.linear(merged, x.type.shape[-1]))
    return y


def transpose(g: Growing) -> Value:
    x = g.pick(2)
    y: Value = g.b.transpose(x, perm=tuple(g.draw(st.permutations(range(x.type.rank)))))
    return y


def flip(g: Growing) -> Value:
    x = g.pick(1)
    y: Value = g.b.flip(x, axis=g.draw(st.integers(0, x.type.rank - 1)))
    return y


def reshape(g: Growing) -> Value:
    x = g.pick(1)
    shape = tuple(map(int, x.type.shape))
    forms = [(x.type.count,), (shape[0], x.type.count // shape[0]), (x.type.count // shape[-1], shape[-1]), (1, *shape)]
    y: Value = g.b.reshape(x, shape=g.draw(st.sampled_from(forms)))
    return y


def halves(g: Growing) -> Value:
    """Split the last axis, exchange the pieces, join them."""
    x = g.pick(1)
    last = int(x.type.shape[-1])
    parts = g.draw(st.sampled_from([n for n in (2, 3, last) if last % n == 0]))
    pieces = g.b.split(x, parts=parts)
    y: Value = g.b.concat(*reversed(pieces if isinstance(pieces, tuple) else (pieces,)))
    return y


def total(g: Growing) -> Value:
    x = g.pick(1)
    count = g.size(1, x.type.rank)
    first = 0 if g.draw(st.booleans()) else x.type.rank - count
    axes = tuple(range(first, first + count))
    y: Value = g.b.tanh(g.b.reduce_sum(x, axes=axes, keepdims=g.draw(st.booleans())))
    return y


def spread(g: Growing) -> Value:
    x = g.pick()
    y: Value = g.b.broadcast_to(x, shape=(g.size(1, 3), *x.type.shape))
    return y


STEPS: tuple[Step, ...] = (
    unary, exponential, residual, gate, quotient, bias, scaled, norm, softmax, dense, perceptron, attention,
    transpose, flip, reshape, halves, total, spread,
)  # fmt: skip
LARGEST = 600
"""Elements; steps that would make a larger tensor are left out, so that a graph runs in milliseconds."""


@st.composite
def graphs(draw: st.DrawFn, max_steps: int = 30) -> Graph:
    """A graph at stage `built`.  Every value reaches `loss`, so every parameter has a gradient."""
    g = Growing(draw, ModelBuilder("random", {}))
    batch, length, width = g.size(1, 3), g.size(1, 5), g.size(1, 8)
    tokens = g.b.input(key="tokens", label="tokens", dtype=DType.i32, shape=(batch, length))
    table = g.param(VOCABULARY, width)
    g.pool.append(g.b.embedding(table, tokens))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=3, max_size=max_steps)):
        y = step(g)
        if y.type.count <= LARGEST and y.type.rank <= 4:
            g.pool.append(y)
    g.b.output("loss", _loss(g, tokens, table))
    return g.b.build()


def _loss(g: Growing, tokens: Value, table: Value) -> Value:
    """Cross entropy of the last [B, T, C] value, with tied or own weights, plus the mean square of every loose end."""
    b = g.b
    loose = _loose_ends(b)
    x = next(v for v in reversed(g.pool) if v.type.shape[:-1] == tokens.type.shape and v.type.rank == 3)
    tied = x.type.shape[-1] == table.type.shape[-1] and g.draw(st.booleans())
    logits = b.matmul(x, table, trans_b=True) if tied else g.linear(x, VOCABULARY + 2)
    targets = b.input(key="targets", label="targets", dtype=DType.i32, shape=(*tokens.type.shape, 1))
    losses, _ = b.cross_entropy(logits, targets, classes=VOCABULARY)
    loss: Value = b.reduce_mean(losses)
    for value in loose:
        if value != x:
            loss = b.add(loss, b.reduce_mean(b.mul(value, value)))
    return loss


def _loose_ends(b: Builder) -> list[Value]:
    """Float results, statistics aside, that nothing reads."""
    read = {v.name for n in b.nodes for v in n.operands}
    ends = [v for n in b.nodes for v, r in zip(n.results, n.op.results, strict=False) if r not in n.op.saved]
    return [v for v in ends if v.name not in read and v.type.dtype.is_float]


def feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """Arrays for the inputs and buffers of any forward graph: normal floats, integers that every table has."""
    rng = np.random.default_rng(seed)
    rows = [int(n.operands[0].type.shape[0]) for n in graph.nodes if isinstance(n.op, Embedding)]
    classes = [n.op.classes for n in graph.nodes if isinstance(n.op, CrossEntropy)]
    bound = min(rows + classes, default=2)

    def array(kind: TensorType) -> Array:
        if not kind.dtype.is_float:
            return rng.integers(0, bound, kind.shape, np.int32)
        return (rng.standard_normal(kind.shape) / math.sqrt(kind.shape[-1] if kind.shape else 1)).astype(np.float32)

    return {n.op.key: array(n.results[0].type) for n in graph.nodes if isinstance(n.op, (Input, Buffer))}
