"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864): the angles; turning by them is elementwise."""

from __future__ import annotations

import math

from gptc.ir.body import Body, body, evaluate
from gptc.ir.op import Types, need, need_count, register
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.types import Array, DType, TensorType


@register
class Angles(Elementwise):
    """Position t turns pair i of a head of `size` numbers by the angle t theta^(-2 i / size).

    Operand i32[T,1,1], result f32[T, 2, size / 2]: first the angles' opposites, then the angles, since a head turned is
    x cos y + (x with its halves exchanged) sin y.
    """

    name = "angles"
    size: int = 2
    theta: float = 10000.0
    differentiable = False
    samples = (({"size": 6}, ("i32[5,1,1]",)), ({"size": 64, "theta": 5e5}, ("i32[40,1,1]",)))

    def body(self) -> Body:
        decay = -2 * math.log(self.theta) / self.size
        return body("t", "y", "y = where(lt(row(), 1), -t, t) * exp(decay * col())", decay=decay)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (t,) = operands
        fits = t.dtype is DType.i32 and t.rank == 3 and t.shape[1:] == (1, 1)
        need(fits, f"needs whole numbers [T, 1, 1], got {t}")
        need(self.size > 0 and self.size % 2 == 0, f"turns pairs of numbers, and {self.size} is no even number of them")
        need(0 < self.theta < math.inf, f"theta must be positive, got {self.theta:g}")
        return (TensorType.of(DType.f32, (t.shape[0], 2, self.size // 2)),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        shape = (len(operands[0]), 2, self.size // 2)
        return evaluate(self.body(), operands, shape)
