"""Cross entropy of logits against the index of the true class.

Logits are [.., Vp] with a padded vocabulary: columns at and beyond `classes` take no part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptc.ir.body import Body, body
from gptc.ir.op import Grads, Types, Values, need, need_count, register
from gptc.ir.ops.row import RowOp
from gptc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


def need_classes(classes: int, logits: TensorType, targets: TensorType) -> None:
    """Targets are one index a row; there are `classes` columns or more."""
    need(logits.rank >= 1, f"logits need an axis of classes, got {logits}")
    need(targets.dtype is DType.i32, f"targets are class indices in i32, got {targets}")
    need(targets.shape == (*logits.shape[:-1], 1), f"targets {targets} must be one a row of logits {logits}")
    need(0 < classes <= logits.shape[-1], f"classes ({classes}) must lie in 1 .. {int(logits.shape[-1])}")


@register
class CrossEntropy(RowOp):
    """loss = lse - x[target], lse = log sum e^x over the classes; one loss a row, not averaged."""

    name = "cross_entropy"
    results = ("losses", "lse")
    saved = ("lse",)
    classes: int = 1
    samples = (
        ({"classes": 5}, ("f32[3,5]", "i32[3,1]")),
        ({"classes": 13}, ("f32[2,4,16]", "i32[2,4,1]")),
    )

    def body(self) -> Body:
        return body(
            "x target",
            "loss lse",
            """
            k     = where(lt(col(), classes), x, -inf)
            max   = row_max(k)
            total = row_sum(exp(k - max))
            lse   = max + log(total)
            right = row_sum(where(eq(col(), target), x, 0))
            loss  = lse - right
            """,
            classes=self.classes,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        need_classes(self.classes, *operands)
        return super().infer(*operands)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        logits, targets = operands
        return b.cross_entropy_grad(grads[0], logits, targets, results[1], classes=self.classes), None


@register
class CrossEntropyGrad(RowOp):
    """dx = dloss (e^(x - lse) - [column is the target]) over the classes, 0 in the padding."""

    name = "cross_entropy_grad"
    results = ("dlogits",)
    differentiable = False
    classes: int = 1
    samples = (
        ({"classes": 5}, ("f32[3,1]", "f32[3,5]", "i32[3,1]", "f32[3,1]")),
        ({"classes": 13}, ("f32[2,4,1]", "f32[2,4,16]", "i32[2,4,1]", "f32[2,4,1]")),
    )

    def body(self) -> Body:
        return body(
            "dloss x target lse",
            "dx",
            """
            p  = where(lt(col(), classes), exp(x - lse), 0)
            dx = dloss * (p - where(eq(col(), target), 1, 0))
            """,
            classes=self.classes,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 4)
        dlosses, logits, targets, lse = operands
        need_classes(self.classes, logits, targets)
        need(dlosses.shape == lse.shape == targets.shape, f"{dlosses} and {lse} must be one a row of logits {logits}")
        return super().infer(*operands)
