"""Weights in whole numbers."""

from __future__ import annotations

from gptc.ir.op import Op, Types, need, need_count, register
from gptc.ir.types import Array, DType, TensorType
from gptc.quantisation import quantise


@register
class Quantise(Op):
    """w[n, :] is nearly scale[n] q[n, :], with q in -127 .. 127 and scale[n] = max |w[n, :]| / 127.

    No target has a kernel for it: only of parameters, whose results are what the runtime keeps of them.
    """

    name = "quantise"
    results = ("q", "scale")
    differentiable = False
    samples = (({}, ("f32[5,7]",)), ({}, ("f32[1,16]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (w,) = operands
        need(w.rank == 2 and w.dtype is DType.f32, f"quantises the rows of an f32 matrix, got {w}")
        return TensorType.of(DType.i8, w.shape), TensorType.of(DType.f32, w.shape[:1])

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        q, scale = quantise(operands[0])
        return q, scale.astype(operands[0].dtype, copy=False)
