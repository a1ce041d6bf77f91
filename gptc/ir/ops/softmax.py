"""Softmax over the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptc.ir.body import Body, body
from gptc.ir.op import Grads, Types, Values, need, need_count, register
from gptc.ir.ops.row import RowOp
from gptc.ir.types import TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


@register
class Softmax(RowOp):
    """y = e^(x - max) / sum e^(x - max); `causal`: over entries at or below the diagonal of [.., T, T], 0 above.

    Entries of -inf get probability 0; a row of nothing else has none and is NaN.
    """

    name = "softmax"
    causal: bool = False
    samples = (({}, ("f32[3,5]",)), ({"causal": True}, ("f32[2,3,7,7]",)), ({"causal": True}, ("f32[4,4]",)))

    def body(self) -> Body:
        kept = "k = where(le(col(), row()), x, -inf)" if self.causal else ""
        over = "k" if self.causal else "x"
        return body(
            "x",
            "y",
            f"""
            {kept}
            e = exp({over} - row_max({over}))
            r = 1 / row_sum(e)
            y = e * r
            """,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        need(not self.causal or operands[0].rank >= 2, f"a causal softmax needs two axes, got {operands[0]}")
        return super().infer(*operands)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.softmax_grad(grads[0], results[0]),)


@register
class SoftmaxGrad(RowOp):
    """dx = y (dy - sum(dy y)); where y is 0, as above the diagonal, so is dx."""

    name = "softmax_grad"
    results = ("dx",)
    differentiable = False
    samples = (({}, ("f32[3,5]", "f32[3,5]")), ({}, ("f32[2,3,7,7]", "f32[2,3,7,7]")))

    def body(self) -> Body:
        return body("dy y", "dx", "dx = y * (dy - row_sum(dy * y))")

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        need(operands[0].shape == operands[1].shape, f"gradient {operands[0]} must match {operands[1]}")
        return super().infer(*operands)
