"""How far a kernel may be from the exact result: the bound of every op that has one.

A kernel starts from the operands as they are in memory, so their bounds are zero; `running_error` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from gptc.errors import InternalError
from gptc.ir.body import body
from gptc.ir.graph import Node
from gptc.ir.ops.attention import Attention, AttentionGrad, repeat_heads
from gptc.ir.ops.cache import AttentionCached, CacheAppend, unseen
from gptc.ir.ops.collective import Collective, NormOverRanks, OwnSquares
from gptc.ir.ops.embedding import Embedding, ScatterAdd
from gptc.ir.ops.foreach import Foreach, columns
from gptc.ir.ops.leaf import Iota
from gptc.ir.ops.optimizer import AdamW, GlobalNorm, SumSquares
from gptc.ir.ops.region import Column, Gemm, Region, Row
from gptc.ir.ops.shape import Concat
from gptc.ir.types import Array, DType, TensorType
from gptc.running_error import (
    ROUND,
    SUBNORMAL,
    TINY,
    UNITS,
    Bounded,
    U,
    product,
    reduced,
    run_body,
    step,
    summed,
    swap,
)


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
