"""Sums and means over axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gptc.ir.op import Grads, Op, Types, Values, need, need_count, register
from gptc.ir.types import Array, Dim, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


@register
class ReduceSum(Op):
    """Sum over `axes`, all leading or all trailing ones; `keepdims` leaves them with size 1."""

    name = "reduce_sum"
    axes: tuple[int, ...] = ()
    keepdims: bool = False
    samples = (
        ({"axes": (0,)}, ("f32[7,5]",)),
        ({"axes": (0, 1)}, ("f32[2,3,5]",)),
        ({"axes": (0, 1, 2)}, ("f32[2,3,1]",)),
        ({"axes": (2,), "keepdims": True}, ("f32[2,3,5]",)),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        count = len(self.axes)
        leading, trailing = tuple(range(count)), tuple(range(x.rank - count, x.rank))
        need(self.axes in (leading, trailing), f"axes {list(self.axes)} of {x} are neither the first nor the last ones")
        kept = [Dim(1) if i in self.axes else d for i, d in enumerate(x.shape) if self.keepdims or i not in self.axes]
        return (x.with_shape(kept),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.asarray(operands[0].sum(self.axes, keepdims=self.keepdims)),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        shape = operands[0].type.shape
        kept = tuple(Dim(1) if i in self.axes else d for i, d in enumerate(shape))
        return (b.broadcast_to(b.reshape(grads[0], shape=kept), shape=shape),)

    def flops(self, *operands: TensorType) -> int:
        return operands[0].count


@register
class ReduceMean(Op):
    """Mean over every element: a rank-0 result."""

    name = "reduce_mean"
    samples = (({}, ("f32[3,5]",)), ({}, ("f32[2,3,1]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        return (operands[0].with_shape(()),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.asarray(operands[0].mean()),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        x = operands[0].type
        share = b.mul(grads[0], b.scalar(1 / math.prod(x.shape)))
        return (b.broadcast_to(share, shape=x.shape),)

    def flops(self, *operands: TensorType) -> int:
        return operands[0].count
