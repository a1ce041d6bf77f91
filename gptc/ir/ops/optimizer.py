"""The update of parameters, and the global gradient norm that clips it."""

from __future__ import annotations

import numpy as np

from gptc.ir.op import Array, Op, Types, need, need_count, register
from gptc.ir.types import DType, TensorType


def scalar_like(x: TensorType) -> TensorType:
    """f32[], or f64[] for f64."""
    return TensorType.of(DType.f64 if x.dtype is DType.f64 else DType.f32, ())


@register
class SumSquares(Op):
    """sum x^2, accumulated in f64: no partial sum overflows or loses small terms."""

    name = "sum_squares"
    kernel = "sum_squares"
    differentiable = False
    samples = (({}, ("f32[3,5]",)), ({}, ("f32[1000]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        return (scalar_like(operands[0]),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        (x,) = operands
        total = np.sum(np.square(x, dtype=np.float64))
        return (np.asarray(total, np.result_type(np.float32, x.dtype)),)

    def flops(self, *operands: TensorType) -> int:
        return 2 * operands[0].count


@register
class GlobalNorm(Op):
    """sqrt of the sum of any number of `sum_squares`: the L2 norm of all gradients together."""

    name = "global_norm"
    kernel = "global_norm"
    differentiable = False
    samples = (({}, ("f32[]",)), ({}, ("f32[]", "f32[]", "f32[]")))

    def infer(self, *operands: TensorType) -> Types:
        need(len(operands) > 0, "takes at least one operand")
        for x in operands:
            need(x.rank == 0 and x.dtype is operands[0].dtype, f"operands are scalars of one dtype, got {x}")
        return (scalar_like(operands[0]),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        total = sum(float(x) for x in operands)
        return (np.asarray(np.sqrt(total), operands[0].dtype),)

    def flops(self, *operands: TensorType) -> int:
        return len(operands)


@register
class AdamW(Op):
    """One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019), bias-corrected.

    m' = beta1 m + (1 - beta1) g,  v' = beta2 v + (1 - beta2) g^2  with g scaled by `scale`;
    p' = p - lr (mhat / (sqrt(vhat) + eps) + weight_decay p),  mhat = m' / (1 - beta1^step),  vhat likewise.
    Operands p, g, m, v, then the scalars lr, step (1 at the first update) and scale.  With `copy`, a dtype, a fourth
    result is p' rounded to it.
    """

    name = "adamw"
    kernel = "adamw"
    results = ("p", "m", "v", "copy")
    in_place = ((0, 0), (1, 2), (2, 3))
    differentiable = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    copy: str = ""
    samples = (
        ({}, ("f32[3,5]", "f32[3,5]", "f32[3,5]", "f32[3,5]", "f32[]", "f32[]", "f32[]")),
        ({"weight_decay": 0.0, "beta2": 0.95}, ("f32[7]", "f32[7]", "f32[7]", "f32[7]", "f32[]", "f32[]", "f32[]")),
        ({"copy": "bf16"}, ("f32[37]", "f32[37]", "f32[37]", "f32[37]", "f32[]", "f32[]", "f32[]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 7)
        p, g, m, v = operands[:4]
        for label, other in (("gradient", g), ("first moment", m), ("second moment", v)):
            need(other.shape == p.shape, f"{label} {other} must match the parameter {p}")
        for label, scalar in zip(("lr", "step", "scale"), operands[4:], strict=True):
            need(scalar.rank == 0, f"{label} must be a scalar, got {scalar}")
        copy = (TensorType.of(DType(self.copy), p.shape),) if self.copy else ()
        return p.with_shape(p.shape), m.with_shape(m.shape), v.with_shape(v.shape), *copy

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        work = np.result_type(np.float32, operands[0].dtype)
        p, g, m, v = (x.astype(work, copy=False) for x in operands[:4])
        lr, step, scale = (float(x) for x in operands[4:])
        g = g * work.type(scale)
        mean = work.type(self.beta1) * m + work.type(1 - self.beta1) * g
        square = work.type(self.beta2) * v + work.type(1 - self.beta2) * g * g
        unbiased = mean / work.type(1 - self.beta1**step)
        root = np.sqrt(square / work.type(1 - self.beta2**step))
        new = p - work.type(lr) * (unbiased / (root + work.type(self.eps)) + work.type(self.weight_decay) * p)
        kinds = [operands[i].dtype for i in (0, 2, 3)]
        if self.copy:
            kinds.append(DType(self.copy).numpy if work == np.float32 else work)
        stored = zip((new, mean, square, new), kinds, strict=False)
        return tuple(x.astype(kind, copy=False) for x, kind in stored)

    def flops(self, *operands: TensorType) -> int:
        return 20 * operands[0].count
