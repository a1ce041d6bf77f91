"""Attention of a few new tokens over keys and values kept from the tokens before them.

A cache is [B, Hkv, T, D]: row t of each head belongs to position t.  `positions` i32[S] says where the S new tokens
stand, each in 0 .. T-1.  A cache may be bf16 or f16 where the new tokens are f32: rows are rounded when they are
stored.
"""

from __future__ import annotations

import numpy as np

from gptc.ir.op import Op, Types, need, need_count, register
from gptc.ir.ops.attention import merged_type, repeat_heads, widen
from gptc.ir.types import Array, DType, TensorType


def need_positions(x: TensorType, positions: TensorType) -> None:
    """One position for each of the tokens of x [B, heads, S, D]."""
    fits = positions.dtype is DType.i32 and positions.shape == x.shape[2:3]
    need(fits, f"positions {positions} must be i32, one a token of {x}")


def need_cache(cache: TensorType, x: TensorType) -> None:
    """Both are [B, heads, tokens, D]."""
    for label, kind in (("the cache", cache), ("tokens", x)):
        need(kind.rank == 4, f"{label} must be [B, heads, T, D], got {kind}")
    same = (cache.shape[0], cache.shape[3]) == (x.shape[0], x.shape[3])
    need(same, f"the cache {cache} and tokens {x} must have the same B and D")
    fits = cache.dtype is x.dtype or (x.dtype is DType.f32 and cache.dtype in (DType.bf16, DType.f16))
    need(fits and x.dtype.is_float, f"the cache {cache} must have the float type of the tokens {x}, or 16 bits for f32")


@register
class CacheAppend(Op):
    """y = cache with y[:, :, positions[s], :] = x[:, :, s, :], in order of s; x may be strided."""

    name = "cache_append"
    kernel = "cache_append"
    in_place = ((0, 0),)
    differentiable = False
    samples = (
        ({}, ("f32[2,3,5,4]", "f32[2,3,1,4]", "i32[1]")),
        ({}, ("f32[2,2,9,16]", "f32[2,2,4,16]", "i32[4]")),
        ({}, ("bf16[2,3,5,4]", "f32[2,3,1,4]", "i32[1]")),
        ({}, ("bf16[1,2,6,4]", "bf16[1,2,2,4]", "i32[2]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 3)
        cache, x, positions = operands
        need_cache(cache, x)
        need(cache.shape[1] == x.shape[1], f"the cache {cache} and tokens {x} must have the same heads")
        need_positions(x, positions)
        return (cache.with_shape(cache.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        cache, x, positions = operands
        y = cache.copy()
        for s, position in enumerate(positions):
            y[:, :, position] = x[:, :, s]
        return (y,)

    def flops(self, *operands: TensorType) -> int:
        return 0

    def moved(self, *operands: TensorType) -> int:
        """In place, only the new rows."""
        cache, x, positions = operands
        return x.nbytes + x.count * cache.dtype.size + positions.nbytes


@register
class AttentionCached(Op):
    """out[s] = softmax(scale q[s] k^T) v over the cached positions 0 .. positions[s].

    q is [B, H, S, D] and may be strided, k and v are caches; `merged` lays `out` out as [B, S, H, D] under the shape
    of q, as `attention` does.
    """

    name = "attention_cached"
    kernel = "attention_cached"
    results = ("out",)
    differentiable = False
    scale: float = 1.0
    merged: bool = False
    samples = (
        ({"scale": 0.5}, ("f32[2,3,1,4]", "f32[2,3,5,4]", "f32[2,3,5,4]", "i32[1]")),
        ({"scale": 0.25, "merged": True}, ("f32[2,4,3,16]", "f32[2,2,7,16]", "f32[2,2,7,16]", "i32[3]")),
        ({"scale": 0.5}, ("f32[2,3,1,4]", "bf16[2,3,5,4]", "bf16[2,3,5,4]", "i32[1]")),
        ({"scale": 0.25, "merged": True}, ("bf16[1,4,3,16]", "bf16[1,2,7,16]", "bf16[1,2,7,16]", "i32[3]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 4)
        q, k, v, positions = operands
        need(k.shape == v.shape and k.dtype is v.dtype, f"k {k} and v {v} must have one type")
        need_cache(k, q)
        need(q.shape[1] % k.shape[1] == 0, f"the heads of q {q} must be a multiple of those of k {k}")
        need_positions(q, positions)
        return (merged_type(q) if self.merged else q.with_shape(q.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        q, k, v = widen(*operands[:3])
        heads = q.shape[1]
        s = np.matmul(q, repeat_heads(k, heads).swapaxes(-1, -2)) * q.dtype.type(self.scale)
        s[..., unseen(operands[3], k.shape[2])] = -np.inf
        e = np.exp(s - s.max(-1, keepdims=True))
        out = np.matmul(e / e.sum(-1, keepdims=True), repeat_heads(v, heads))
        return (out.astype(operands[0].dtype, copy=False),)

    def flops(self, *operands: TensorType) -> int:
        return 4 * operands[0].count * int(operands[1].shape[2])


def unseen(positions: Array, length: int) -> Array:
    """bool[S, T]: the cached positions that lie after a token's own."""
    hidden: Array = np.arange(length) > positions[:, None]
    return hidden
