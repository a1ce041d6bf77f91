"""Scaled dot-product attention as one op, with its gradient: no [T, T] tensor reaches memory.

q is [B, H, T, D], k and v are [B, Hkv, T, D]; H is a multiple of Hkv and each head of k and v serves H / Hkv
consecutive heads of q (Ainslie et al. 2023; one each when Hkv = H).  Operands may be strided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gptc.ir.op import Grads, Op, Types, Values, need, need_count, register
from gptc.ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


def need_heads(q: TensorType, k: TensorType, v: TensorType) -> None:
    """Queries, keys and values fit together."""
    for label, x in (("q", q), ("k", k), ("v", v)):
        need(x.rank == 4, f"{label} must be [B, heads, T, D], got {x}")
    need(k.shape == v.shape, f"k {k} and v {v} must have one shape")
    need(
        (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:]),
        f"q {q} and k {k} may differ in the number of heads only",
    )
    need(q.shape[1] % k.shape[1] == 0, f"the heads of q {q} must be a multiple of those of k {k}")
    need(q.dtype is k.dtype is v.dtype and q.dtype.is_float, f"needs one float type, got {q}, {k} and {v}")


def statistic(q: TensorType) -> TensorType:
    """Type of lse: [B, H, T] in f32, or f64 for f64."""
    return TensorType.of(DType.f64 if q.dtype is DType.f64 else DType.f32, q.shape[:3])


def merged_type(x: TensorType) -> TensorType:
    """[B, H, T, D] laid out as [B, T, H, D]: the heads of a position side by side, ready for the projection."""
    _, heads, length, size = map(int, x.shape)
    return TensorType.of(x.dtype, x.shape, (length * heads * size, size, heads * size, 1))


def scores(q: Array, k: Array, scale: float, causal: bool) -> Array:
    """scale q k^T, and -inf above the diagonal if causal: [B, H, T, T] of heads already repeated."""
    s = np.matmul(q, k.swapaxes(-1, -2)) * q.dtype.type(scale)
    if causal:
        s[..., np.tri(*s.shape[-2:]) == 0] = -np.inf
    return np.asarray(s)


def repeat_heads(x: Array, heads: int) -> Array:
    """[B, Hkv, T, D] -> [B, H, T, D]."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def widen(*operands: Array) -> tuple[Array, ...]:
    """float32, or float64 where it is: the precision of scores and accumulations."""
    return tuple(x.astype(np.result_type(np.float32, x.dtype), copy=False) for x in operands)


@register
class Attention(Op):
    """out = softmax(scale q k^T) v, over the positions up to its own if `causal`; lse = log sum e^scores.

    `merged` lays `out` out as [B, T, H, D] under the same shape.
    """

    name = "attention"
    kernel = "attention"
    results = ("out", "lse")
    saved = ("lse",)
    scale: float = 1.0
    causal: bool = False
    merged: bool = False
    samples = (
        ({"scale": 0.5, "causal": True}, ("f32[2,3,5,4]", "f32[2,3,5,4]", "f32[2,3,5,4]")),
        ({"scale": 0.25}, ("f32[1,2,7,16]", "f32[1,2,7,16]", "f32[1,2,7,16]")),
        ({"scale": 0.5, "causal": True, "merged": True}, ("f32[2,4,6,4]", "f32[2,2,6,4]", "f32[2,2,6,4]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 3)
        q, k, v = operands
        need_heads(q, k, v)
        return merged_type(q) if self.merged else q.with_shape(q.shape), statistic(q)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        q, k, v = widen(*operands)
        heads = q.shape[1]
        s = scores(q, repeat_heads(k, heads), self.scale, self.causal)
        top = s.max(-1, keepdims=True)
        e = np.exp(s - top)
        total = e.sum(-1, keepdims=True)
        out = np.matmul(e / total, repeat_heads(v, heads))
        return out.astype(operands[0].dtype, copy=False), (top + np.log(total))[..., 0]

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        out, lse = results
        grad: Grads = b.attention_grad(grads[0], *operands, out, lse, scale=self.scale, causal=self.causal)
        return grad

    def flops(self, *operands: TensorType) -> int:
        return 2 * score_flops(operands[0], self.causal)


def score_flops(q: TensorType, causal: bool) -> int:
    """One product with a [T, T] factor for every head; half of it when causal."""
    return 2 * q.count * int(q.shape[2]) // (2 if causal else 1)


@register
class AttentionGrad(Op):
    """Gradients of q, k, v with the scores computed again: p = e^(scores - lse),
    ds = scale p (dout v^T - rowsum(dout out)), dq = ds k, dk = ds^T q, dv = p^T dout (Dao et al. 2022).

    `packed` gives one result [B, T, (H + 2 Hkv) D]: dq, dk, dv side by side, the gradient of a joint projection.
    """

    name = "attention_grad"
    kernel = "attention_grad"
    results = ("dq", "dk", "dv")
    differentiable = False
    scale: float = 1.0
    causal: bool = False
    packed: bool = False
    samples = (
        ({"scale": 0.5, "causal": True}, (*("f32[2,3,5,4]",) * 5, "f32[2,3,5]")),
        ({"scale": 0.25}, (*("f32[1,2,7,16]",) * 5, "f32[1,2,7]")),
        (
            {"scale": 0.5, "causal": True, "packed": True},
            ("f32[2,4,6,4]", "f32[2,4,6,4]", "f32[2,2,6,4]", "f32[2,2,6,4]", "f32[2,4,6,4]", "f32[2,4,6]"),
        ),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 6)
        dout, q, k, v, out, lse = operands
        need_heads(q, k, v)
        need(dout.shape == out.shape == q.shape, f"{dout} and {out} must match q {q}")
        need(lse.shape == q.shape[:3], f"lse {lse} must be one a row of q {q}")
        if not self.packed:
            return tuple(x.with_shape(x.shape) for x in (q, k, v))
        batch, heads, length, size = q.shape
        return (q.with_shape((batch, length, (heads + 2 * k.shape[1]) * size)),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        dout, q, k, v, out, lse = widen(*operands)
        heads, few = q.shape[1], k.shape[1]
        keys, values = repeat_heads(k, heads), repeat_heads(v, heads)
        p = np.exp(scores(q, keys, self.scale, self.causal) - lse[..., None])
        dp = np.matmul(dout, values.swapaxes(-1, -2))
        ds = p * (dp - np.sum(dout * out, -1, keepdims=True)) * q.dtype.type(self.scale)

        def sum_heads(x: Array) -> Array:
            return np.asarray(x.reshape(len(x), few, heads // few, *x.shape[2:]).sum(2))

        dq = np.matmul(ds, keys)
        dk, dv = sum_heads(np.matmul(ds.swapaxes(-1, -2), q)), sum_heads(np.matmul(p.swapaxes(-1, -2), dout))
        grads: tuple[Array, ...] = (dq, dk, dv)
        if self.packed:
            flat = [x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1) for x in grads]
            grads = (np.concatenate(flat, axis=-1),)
        return tuple(x.astype(operands[1].dtype, copy=False) for x in grads)

    def flops(self, *operands: TensorType) -> int:
        return 5 * score_flops(operands[1], self.causal)
