"""How far a kernel may be from the exact result: running error analysis (Higham 2002, sections 3.1 to 3.3).

Each value is a float64 array with a bound on the error of its float32 counterpart.  A bound grows by what the
operands bring along and by the rounding of the step itself; a sum of n terms in any order adds n roundings of the
sum of their magnitudes.  Nothing is fitted: the only constants are units of roundoff and the accuracy that
`support.h` states for its functions.

A kernel starts from the operands as they are in memory, so their bounds are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from gptc.errors import InternalError
from gptc.ir.body import INDICES, REDUCTIONS, SCALARS, Body, body, positions
from gptc.ir.graph import Node
from gptc.ir.op import Array
from gptc.ir.ops.attention import Attention, AttentionGrad, repeat_heads
from gptc.ir.ops.cache import AttentionCached, CacheAppend, unseen
from gptc.ir.ops.collective import Collective, NormOverRanks, OwnSquares
from gptc.ir.ops.embedding import Embedding, ScatterAdd
from gptc.ir.ops.foreach import Foreach, columns
from gptc.ir.ops.leaf import Iota
from gptc.ir.ops.optimizer import AdamW, GlobalNorm, SumSquares
from gptc.ir.ops.region import Column, Gemm, Region, Row
from gptc.ir.ops.shape import Concat
from gptc.ir.types import DType, TensorType

U = 2.0**-24
"""Unit roundoff of float32."""
TINY = 2.0**-120
"""What flushing an exponential or a subnormal to zero may cost, with room for the products that follow."""
ROUND = {DType.bf16: 2.0**-8, DType.f16: 2.0**-11}
"""Relative rounding of a store; that of f32 is part of the last step, and whole numbers are exact."""
SUBNORMAL = {DType.f16: 2.0**-25}
"""Absolute rounding of a store below 2^-14; the others have no such numbers where it would show."""
UNITS = {"exp": 4, "log": 2, "tanh": 4, "sigmoid": 8, "gelu": 40, "rsqrt": 2, "copy": 0, "neg": 0, "abs": 0, "sign": 0,
         "maximum": 0, "minimum": 0, "where": 0, "lt": 0, "le": 0, "eq": 0,
         "round_bf16": 2.0**16, "round_f16": 2.0**13, "noise": 0, "stochastic_bf16": 2.0**16}  # fmt: skip
"""Roundoff units of one evaluation, 1 for all others: an ulp is at most two units.  Stochastic rounding errs by up to
twice as much as rounding to nearest; the other half is that of the store behind it, which changes nothing more."""
GROWTH = {"exp": 1.25, "sigmoid": 1.25}
"""Units more for each unit of the operand's magnitude, on a GPU."""
LARGEST = 128.0
"""Magnitude from which exponentials are infinite or flushed to zero."""


@dataclass(frozen=True)
class Bounded:
    """Values and the largest error that each may have."""

    value: Array
    error: Array

    @classmethod
    def exact(cls, value: Array) -> Bounded:
        wide = value if value.dtype.kind in "iu" else value.astype(np.float64)
        return cls(wide, np.broadcast_to(0.0, wide.shape))

    def rounded(self, units: float | Array) -> Bounded:
        """After `units` more roundings."""
        return Bounded(self.value, self.error + units * U * np.abs(self.value) + TINY)

    def reshape(self, *shape: int) -> Bounded:
        return Bounded(self.value.reshape(shape), self.error.reshape(shape))


def _same(y: Array, x: Sequence[Bounded]) -> Array:
    return x[0].error


def _where(y: Array, x: Sequence[Bounded]) -> Array:
    """A condition that is not certain may pick the other side."""
    condition, yes, no = x
    picked = np.where(condition.value, yes.error, no.error)
    return np.where(condition.error > 0, np.abs(yes.value - no.value) + yes.error + no.error, picked)


def _compare(y: Array, x: Sequence[Bounded]) -> Array:
    """1 where the errors of the operands could turn the answer."""
    margin = x[0].error + x[1].error
    return np.asarray((np.abs(x[0].value - x[1].value) <= margin) & (margin > 0))


def _div(y: Array, x: Sequence[Bounded]) -> Array:
    return np.asarray((x[0].error + np.abs(y) * x[1].error) / np.maximum(np.abs(x[1].value) - x[1].error, TINY))


PROPAGATE: dict[str, Callable[[Array, Sequence[Bounded]], Array]] = {
    "add": lambda y, x: x[0].error + x[1].error,
    "sub": lambda y, x: x[0].error + x[1].error,
    "mul": lambda y, x: np.abs(x[0].value) * x[1].error + (np.abs(x[1].value) + x[1].error) * x[0].error,
    "div": _div,
    "exp": lambda y, x: y * np.expm1(np.minimum(x[0].error, 700.0)),
    "log": lambda y, x: x[0].error / np.maximum(x[0].value - x[0].error, TINY),
    "sqrt": lambda y, x: x[0].error / np.maximum(y, TINY),
    "rsqrt": lambda y, x: y * x[0].error / np.maximum(x[0].value - x[0].error, TINY),
    "sigmoid": lambda y, x: 0.25 * x[0].error,
    "gelu": lambda y, x: 1.13 * x[0].error,
    "maximum": lambda y, x: np.maximum(x[0].error, x[1].error),
    "minimum": lambda y, x: np.maximum(x[0].error, x[1].error),
    "where": _where,
    "lt": _compare,
    "le": _compare,
    "eq": _compare,
    "sign": lambda y, x: 2.0 * (np.abs(x[0].value) <= x[0].error) * (x[0].error > 0),
}
"""Errors of the operands -> error of the exact function of them; all others pass it on as it is."""


def step(fn: str, args: Sequence[Bounded], space: Sequence[int]) -> Bounded:
    """One statement of a body over an iteration space."""
    if fn in INDICES:
        return Bounded.exact(positions(fn, space))
    if fn in REDUCTIONS:
        return reduced(fn, args[0], space)
    value = np.asarray(SCALARS[fn].numpy(*(a.value for a in args)))
    spread = PROPAGATE.get(fn, _same)
    error = np.broadcast_to(np.asarray(spread(value, args), np.float64), value.shape)
    # support.h promises no relative accuracy where gelu underflows
    floor = {"gelu": 1e-6, "round_f16": SUBNORMAL[DType.f16]}.get(fn, 0.0)
    units: float | Array = UNITS.get(fn, 1)
    if fn in GROWTH:
        units = units + GROWTH[fn] * np.minimum(np.abs(args[0].value), LARGEST)
    return Bounded(value, error + floor).rounded(units) if np.any(units) else Bounded(value, error)


def reduced(fn: str, x: Bounded, space: Sequence[int]) -> Bounded:
    """`row_sum`, `row_mean` or `row_max` over the last axis."""
    value, error = (np.broadcast_to(a, space) for a in (x.value, x.error))
    if fn == "row_max":
        return Bounded(value.max(-1, keepdims=True), error.max(-1, keepdims=True))
    total = summed(Bounded(value, error), (value.ndim - 1,))
    total = Bounded(np.expand_dims(total.value, -1), np.expand_dims(total.error, -1))
    n = value.shape[-1]
    # A mean is a quotient, or on a GPU a product with 1 / n.
    return total if fn == "row_sum" else Bounded(total.value / n, total.error / n).rounded(2)


def summed(x: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The sum over `axes`, added in any order."""
    n = int(np.prod([x.value.shape[a] for a in axes])) if axes else 0
    magnitude = np.abs(x.value).sum(axes) + x.error.sum(axes)
    return Bounded(np.asarray(x.value.sum(axes)), np.asarray(x.error.sum(axes) + n * U * magnitude))


def product(a: Bounded, b: Bounded) -> Bounded:
    """Matrix product over the last axes, its K terms added in any order."""
    magnitude = np.matmul(np.abs(a.value) + a.error, np.abs(b.value) + b.error)
    exact = np.matmul(np.abs(a.value), np.abs(b.value)) if a.error.any() or b.error.any() else magnitude
    return Bounded(np.matmul(a.value, b.value), magnitude - exact + (a.value.shape[-1] + 1) * U * magnitude + TINY)


def run_body(code: Body, inputs: Sequence[Bounded], space: Sequence[int]) -> list[Bounded]:
    """The outputs of a body."""
    values = dict(zip(code.inputs, inputs, strict=True))
    last = {a: i for i, stmt in enumerate(code.stmts) for a in stmt.args if isinstance(a, str)}
    for i, stmt in enumerate(code.stmts):
        args = [values[a] if isinstance(a, str) else Bounded.exact(np.asarray(a, np.float32)) for a in stmt.args]
        values[stmt.result] = step(stmt.fn, args, space)
        for name in {a for a in stmt.args if isinstance(a, str)} - set(code.outputs):
            if last[name] == i:
                del values[name]  # these arrays are large
    return [values[name] for name in code.outputs]


def swap(x: Bounded) -> Bounded:
    """Transpose the last two axes."""
    return Bounded(x.value.swapaxes(-1, -2), x.error.swapaxes(-1, -2))


def region(op: Region, types: Sequence[TensorType], x: Sequence[Bounded]) -> list[Bounded]:
    """A region: for `gemm` the product first, for `column` the sum last, as for some results of a `row`."""
    if isinstance(op, Gemm):
        a, b = swap(x[0]) if op.trans_a else x[0], swap(x[1]) if op.trans_b else x[1]
        acc = product(a, b)
        return run_body(op.body, [acc, *x[2:]], acc.value.shape)
    space = tuple(map(int, op.space(types)))
    found = run_body(op.body, x, space)
    sums: Collection[int] = range(len(found)) if isinstance(op, Column) else op.sums if isinstance(op, Row) else ()
    axes = tuple(range(len(space) - (op.keep if isinstance(op, Column) else 1)))
    for i in sums:
        whole = (np.broadcast_to(a, space) for a in (found[i].value, found[i].error))
        found[i] = summed(Bounded(*whole), axes)
    return found


SCORES = body("s top", "e", "e = exp(s - top)")
SHARE = body("e total", "p", "p = e / total")
LSE = body("top total", "lse", "lse = top + log(total)")


def _scores(scale: float, hidden: Array | None, q: Bounded, k: Bounded) -> Bounded:
    """scale q k^T; -inf where `hidden` [queries, keys] says so."""
    s = product(q, swap(k))
    s = Bounded(s.value * scale, s.error * abs(scale)).rounded(2)
    return s if hidden is None else Bounded(np.where(hidden, -np.inf, s.value), np.where(hidden, 0.0, s.error))


def _hidden(op: Attention | AttentionGrad, q: Bounded) -> Array | None:
    """What a causal mask hides."""
    length = q.value.shape[2]
    return np.tri(length) == 0 if op.causal else None


def _repeat(x: Bounded, heads: int) -> Bounded:
    return Bounded(repeat_heads(x.value, heads), repeat_heads(x.error, heads))


def attention(
    op: Attention | AttentionCached, hidden: Array | None, x: Sequence[Bounded], factor: float = 0
) -> list[Bounded]:
    """`out` and `lse` by parts: scores, softmax, product.  Rescaling the running sums once a block costs at most T
    more units; `factor` are those of what was computed and is multiplied again."""
    q, k, v = x[0], _repeat(x[1], x[0].value.shape[1]), _repeat(x[2], x[0].value.shape[1])
    s = _scores(op.scale, hidden, q, k)
    top = reduced("row_max", s, s.value.shape)
    (e,) = run_body(SCORES, [s, top], s.value.shape)
    total = reduced("row_sum", e, e.value.shape).rounded(s.value.shape[-1])
    (p,) = run_body(SHARE, [e, total], e.value.shape)
    (lse,) = run_body(LSE, [top, total], top.value.shape)
    out = product(p.rounded(s.value.shape[-1] + factor), v)
    return [out, lse.reshape(*lse.value.shape[:-1])]


def attention_grad(op: AttentionGrad, x: Sequence[Bounded], factor: float = 0) -> list[Bounded]:
    """By parts, as the op's docstring has them; `factor` as for `attention`."""
    dout, q, k, v, out, lse = x
    heads, few = q.value.shape[1], k.value.shape[1]
    keys, values = _repeat(k, heads), _repeat(v, heads)
    s = _scores(op.scale, _hidden(op, q), q, keys)
    (p,) = run_body(SCORES, [s, lse.reshape(*lse.value.shape, 1)], s.value.shape)
    delta = reduced("row_sum", step("mul", [dout, out], ()), out.value.shape)
    ds = step("mul", [p, step("sub", [product(dout, swap(values)), delta], ())], ())
    ds = Bounded(ds.value * op.scale, ds.error * abs(op.scale)).rounded(2 + factor)
    p = p.rounded(factor)

    def sum_heads(y: Bounded) -> Bounded:
        b, _, t, d = y.value.shape
        return summed(y.reshape(b, few, heads // few, t, d), (2,))

    grads = [product(ds, keys), sum_heads(product(swap(ds), q)), sum_heads(product(swap(p), dout))]
    if not op.packed:
        return grads
    flat = [[a.transpose(0, 2, 1, 3).reshape(a.shape[0], a.shape[2], -1) for a in (y.value, y.error)] for y in grads]
    return [Bounded(*(np.concatenate([f[i] for f in flat], -1) for i in range(2)))]


ADAMW = body(
    "p g m v scale rate decay c2 beta1 keep1 beta2 keep2 eps",
    "p_new m_new v_new",
    """
    grad  = scale * g
    m_new = beta1 * m + keep1 * grad
    v_new = beta2 * v + keep2 * grad * grad
    p_new = p - (rate * m_new / (sqrt(v_new / c2) + eps) + decay * p)
    """,
)


CHUNK = 1 << 16
"""Elements of an update that are treated at a time: some dozen arrays of them stay in the cache."""


def adamw(op: AdamW, x: Sequence[Bounded]) -> list[Bounded]:
    """The new parameter, as it is and as it is in bf16, and moments; what was there where the update is skipped."""
    p, m, v = _updated(op, x) if float(x[-1].value) > 0 else (x[0], x[2], x[3])
    narrow = p.rounded(UNITS["stochastic_bf16"]) if op.stochastic else p
    return [p, m, v, narrow] if op.copy else [narrow, m, v]


def _updated(op: AdamW, x: Sequence[Bounded]) -> list[Bounded]:
    """The update as a body; what is the same for all elements carries its roundings."""
    lr, count = (float(scalar.value) for scalar in x[-3:-1])
    rate, correction = lr / (1 - op.beta1**count), 1 - op.beta2**count
    if op.eps_hat:
        rate, correction = rate * correction**0.5, 1.0
    scalars = (
        rate, lr * op.weight_decay, correction,
        op.beta1, 1 - op.beta1, op.beta2, 1 - op.beta2, op.eps,
    )  # fmt: skip
    constants = [x[-1], *(Bounded.exact(np.asarray(s, np.float64)).rounded(4) for s in scalars)]
    shape, tensors = x[0].value.shape, [each.value.reshape(-1) for each in x[:4]]
    found = [Bounded(np.empty(shape), np.empty(shape)) for _ in range(3)]
    for start in range(0, tensors[0].size, CHUNK):
        part = slice(start, start + CHUNK)
        inputs = [Bounded.exact(t[part]) for t in tensors]
        for whole, piece in zip(found, run_body(ADAMW, [*inputs, *constants], inputs[0].value.shape), strict=True):
            whole.value.reshape(-1)[part], whole.error.reshape(-1)[part] = piece.value, piece.error
    return found


def scatter_add(op: ScatterAdd, x: Sequence[Bounded]) -> list[Bounded]:
    """A row of the result is the sum of at most as many rows as there are ids."""
    base, ids, dy = (each.value for each in x)
    (value,) = op.eval(base, ids, dy)
    (magnitude,) = op.eval(np.abs(base), ids, np.abs(dy))
    return [Bounded(value, ids.size * U * magnitude)]


def bounded(node: Node, operands: Sequence[Array]) -> list[Bounded]:
    """The exact results of a node for these operands, and how far its kernel may be from each."""
    op = node.op
    if isinstance(op, Foreach):
        nodes = [Node(op.op, own, node.results[k :: op.times]) for k, own in enumerate(op.sets(node.operands))]
        return list(columns([bounded(*each) for each in zip(nodes, op.sets(operands), strict=True)]))
    x = [Bounded.exact(a) for a in operands]
    with np.errstate(all="ignore"):
        match op:
            case Region():
                found = region(op, [v.type for v in node.operands], x)
            case Attention():
                found = attention(op, _hidden(op, x[0]), x, _factor(node))
            case AttentionCached():
                found = attention(op, unseen(operands[3], operands[1].shape[2]), x)[:1]
            case AttentionGrad():
                found = attention_grad(op, x, _factor(node))
            case AdamW():
                found = adamw(op, x)
            case ScatterAdd():
                found = scatter_add(op, x)
            case SumSquares() | GlobalNorm() | OwnSquares() | NormOverRanks():
                found = [Bounded.exact(a).rounded(2 + len(operands)) for a in op.eval(*(each.value for each in x))]
            case Embedding() | Concat() | Iota() | CacheAppend() | Collective():
                found = [Bounded.exact(a) for a in op.eval(*operands)]
            case _:
                raise InternalError.of(f"no error bound is known for {op.name}", node.span)
    return [_stored(y, v.type) for y, v in zip(found, node.results, strict=True)]


def _factor(node: Node) -> float:
    """Roundoff units of a factor that attention computes, which tensor cores take in the format of their operands."""
    return {DType.bf16: 2.0**16, DType.f16: 2.0**13}.get(node.operands[1].type.dtype, 0)


def _stored(y: Bounded, kind: TensorType) -> Bounded:
    """Broadcast to the declared shape and rounded to the declared dtype."""
    value, error = (np.broadcast_to(a, kind.shape) for a in (y.value, y.error))
    if not kind.dtype.is_float:
        value = value.astype(kind.dtype.numpy)  # random bits wrap
    if rounding := ROUND.get(kind.dtype):
        error = error + rounding * (np.abs(value) + error) + SUBNORMAL.get(kind.dtype, 0.0)
    return Bounded(value, error + TINY)
