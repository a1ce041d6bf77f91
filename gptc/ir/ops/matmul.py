"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gptc.ir.op import Grads, Op, Types, Values, need, need_count, register
from gptc.ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder
    from gptc.ir.graph import Value

FEW_ROWS = 4
"""Most rows of a product that reads its right factor as it lies: to pack it for so few costs more than it saves."""


def matmul_type(a: TensorType, b: TensorType, trans_a: bool, trans_b: bool) -> TensorType:
    """Type of op(a) op(b): a [.., M, K] (or [.., K, M]), b likewise with the same leading axes, or rank 2.

    Narrow operands give an f32 product, as it is accumulated; rounding it is a cast of its own.  A few rows of f32
    may meet a b in i8, whose scales are applied afterwards.
    """
    need(a.rank >= 2 and b.rank >= 2, f"needs matrices, got {a} and {b}")
    m, k = (a.shape[-1], a.shape[-2]) if trans_a else (a.shape[-2], a.shape[-1])
    k2, n = (b.shape[-1], b.shape[-2]) if trans_b else (b.shape[-2], b.shape[-1])
    left, right = ("T" if trans_a else ""), ("T" if trans_b else "")
    need(
        k == k2, f"inner sizes differ: {a}{left and '^' + left} has {int(k)}, {b}{right and '^' + right} has {int(k2)}"
    )
    need(b.rank == 2 or a.shape[:-2] == b.shape[:-2], f"leading axes differ: {a} and {b}")
    need(
        a.rank == 2 or b.rank > 2 or not trans_a, f"a batch of transposed matrices needs a batch on the right: {a}, {b}"
    )
    if b.dtype is DType.i8 and a.dtype is DType.f32:
        few = a.count <= FEW_ROWS * k and trans_b and not trans_a
        need(few, f"only up to {FEW_ROWS} rows are multiplied by a transposed matrix in i8, got {a} and {b}")
    else:
        need(a.dtype == b.dtype and a.dtype.is_float, f"needs operands of one float type, got {a} and {b}")
    return TensorType.of(DType.f64 if a.dtype is DType.f64 else DType.f32, (*a.shape[:-2], m, n))


def matmul_eval(a: Array, b: Array, trans_a: bool, trans_b: bool) -> Array:
    """Product in float32, or in float64 where an operand is."""
    work = np.result_type(np.float32, a.dtype, b.dtype)
    left, right = a.astype(work, copy=False), b.astype(work, copy=False)
    left = left.swapaxes(-1, -2) if trans_a else left
    right = right.swapaxes(-1, -2) if trans_b else right
    return np.asarray(np.matmul(left, right))


@register
class Matmul(Op):
    """y = op(a) op(b), where op transposes the last two axes if asked.  A rank-2 b serves every batch of a."""

    name = "matmul"
    trans_a: bool = False
    trans_b: bool = False
    samples = (
        ({}, ("f32[3,4]", "f32[4,5]")),
        ({"trans_b": True}, ("f32[2,3,4]", "f32[5,4]")),
        ({"trans_a": True}, ("f32[4,3]", "f32[4,5]")),
        ({"trans_a": True, "trans_b": True}, ("f32[2,4,3]", "f32[2,5,4]")),
        ({}, ("f32[2,3,5,7]", "f32[2,3,7,2]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        return (matmul_type(operands[0], operands[1], self.trans_a, self.trans_b),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (matmul_eval(operands[0], operands[1], self.trans_a, self.trans_b),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        left, right = operands
        (dy,) = grads
        if self.trans_a:
            da = b.matmul(right, dy, trans_a=self.trans_b, trans_b=True)
        else:
            da = b.matmul(dy, right, trans_b=not self.trans_b)
        if right.type.rank == 2 and left.type.rank > 2:
            left, dy = flatten_rows(b, left), flatten_rows(b, dy)
        if self.trans_b:
            db = b.matmul(dy, left, trans_a=True, trans_b=self.trans_a)
        else:
            db = b.matmul(left, dy, trans_a=not self.trans_a)
        return da, db

    def flops(self, *operands: TensorType) -> int:
        inner = operands[0].shape[-2 if self.trans_a else -1]
        return 2 * self.infer(*operands)[0].count * inner


def flatten_rows(b: Builder, x: Value | None) -> Value:
    """[.., M, K] as one matrix [rows, K]."""
    assert x is not None
    cols = x.type.shape[-1]
    flat: Value = b.reshape(x, shape=(x.type.count // cols, cols))
    return flat
