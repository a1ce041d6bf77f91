"""Rows of a table by index, and the sum of rows back into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gptc.ir.op import Grads, Op, Types, Values, need, need_count, register
from gptc.ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


def need_table(w: TensorType, ids: TensorType) -> None:
    """A table [V, C] and indices into its rows."""
    need(w.rank == 2, f"the table must be a matrix [V, C], got {w}")
    need(ids.dtype is DType.i32, f"indices are i32, got {ids}")


@register
class Embedding(Op):
    """y[.., :] = w[ids[..], :]."""

    name = "embedding"
    kernel = "embedding"
    samples = (({}, ("f32[7,5]", "i32[3]")), ({}, ("f32[11,16]", "i32[2,4]")))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        w, ids = operands
        need_table(w, ids)
        return (w.with_shape((*ids.shape, w.shape[1])),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        w, ids = operands
        return (w[ids],)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        w, ids = operands
        zeros = b.broadcast_to(b.scalar(0, w.type.dtype), shape=w.type.shape)
        return b.scatter_add(zeros, ids, grads[0]), None

    def flops(self, *operands: TensorType) -> int:
        return 0

    def moved(self, *operands: TensorType) -> int:
        """The rows that are asked for, not the whole table."""
        return operands[1].nbytes + 2 * self.infer(*operands)[0].nbytes


@register
class ScatterAdd(Op):
    """y = base with dy[i, :] added to row ids[i], in order of i; sums are in f32 or wider."""

    name = "scatter_add"
    kernel = "scatter_add"
    in_place = ((0, 0),)
    differentiable = False
    samples = (({}, ("f32[7,5]", "i32[3]", "f32[3,5]")), ({}, ("f32[5,16]", "i32[2,4]", "f32[2,4,16]")))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 3)
        base, ids, dy = operands
        need_table(base, ids)
        need(dy.shape == (*ids.shape, base.shape[1]), f"rows {dy} must be one of {base} for each index of {ids}")
        need(dy.dtype is base.dtype and dy.dtype.is_float, f"rows {dy} and table {base} must have one float type")
        return (base.with_shape(base.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        base, ids, dy = operands
        total = base.astype(np.result_type(np.float32, base.dtype))
        np.add.at(total, ids, dy.astype(total.dtype, copy=False))
        return (total.astype(base.dtype, copy=False),)

    def flops(self, *operands: TensorType) -> int:
        return operands[2].count

    def moved(self, *operands: TensorType) -> int:
        """In place, only rows that are added to: each is read and written."""
        return operands[1].nbytes + 3 * operands[2].nbytes
