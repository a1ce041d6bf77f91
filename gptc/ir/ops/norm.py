"""Normalisations over the last axis.  Statistics are f32 whatever the operands are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptc.ir.body import Body, body
from gptc.ir.op import Grads, Types, Values, need, need_count, register
from gptc.ir.ops.row import RowOp
from gptc.ir.types import TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder
    from gptc.ir.graph import Value


def need_gain(x: TensorType, **gains: TensorType) -> None:
    """Weights and biases are vectors along the last axis of x."""
    need(x.rank >= 1, f"needs an axis to normalise over, got {x}")
    for label, gain in gains.items():
        need(gain.shape == x.shape[-1:], f"{label} {gain} must match the last axis of {x}")


def sum_rows(b: Builder, x: Value) -> Value:
    """[.., C] -> [C]."""
    total: Value = b.reduce_sum(x, axes=tuple(range(x.type.rank - 1)))
    return total


@register
class LayerNorm(RowOp):
    """y = (x - mean) rstd w + b with the biased variance (Ba et al. 2016)."""

    name = "layer_norm"
    results = ("y", "mean", "rstd")
    saved = ("mean", "rstd")
    eps: float = 1e-5
    samples = (
        ({}, ("f32[3,5]", "f32[5]", "f32[5]")),
        ({"eps": 1e-3}, ("f32[2,4,24]", "f32[24]", "f32[24]")),
        ({}, ("f32[16]", "f32[16]", "f32[16]")),
    )

    def body(self) -> Body:
        return body(
            "x w b",
            "y mean rstd",
            """
            mean = row_mean(x)
            d    = x - mean
            rstd = rsqrt(row_mean(d * d) + eps)
            y    = d * rstd * w + b
            """,
            eps=self.eps,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 3)
        need_gain(operands[0], weight=operands[1], bias=operands[2])
        return super().infer(*operands)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        x, w, _ = operands
        _, mean, rstd = results
        dy = grads[0]
        assert dy is not None
        normal = b.mul(b.sub(x, mean), rstd)
        return b.layer_norm_grad(dy, x, w, mean, rstd), sum_rows(b, b.mul(dy, normal)), sum_rows(b, dy)


@register
class LayerNormGrad(RowOp):
    """dx = rstd (g - mean(g) - n mean(g n)) with g = dy w, n = (x - mean) rstd."""

    name = "layer_norm_grad"
    results = ("dx",)
    differentiable = False
    samples = (
        ({}, ("f32[3,5]", "f32[3,5]", "f32[5]", "f32[3,1]", "f32[3,1]")),
        ({}, ("f32[2,4,24]", "f32[2,4,24]", "f32[24]", "f32[2,4,1]", "f32[2,4,1]")),
    )

    def body(self) -> Body:
        return body(
            "dy x w mean rstd",
            "dx",
            """
            n  = (x - mean) * rstd
            g  = dy * w
            dx = rstd * (g - row_mean(g) - n * row_mean(g * n))
            """,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 5)
        dy, x, w, mean, rstd = operands
        need(dy.shape == x.shape, f"gradient {dy} must match {x}")
        need_gain(x, weight=w)
        need(mean.shape == rstd.shape == (*x.shape[:-1], 1), f"statistics {mean} and {rstd} must match {x}")
        return super().infer(*operands)


@register
class RmsNorm(RowOp):
    """y = x rstd w with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019)."""

    name = "rms_norm"
    results = ("y", "rstd")
    saved = ("rstd",)
    eps: float = 1e-5
    samples = (
        ({}, ("f32[3,5]", "f32[5]")),
        ({"eps": 1e-3}, ("f32[2,4,24]", "f32[24]")),
    )

    def body(self) -> Body:
        return body(
            "x w",
            "y rstd",
            """
            rstd = rsqrt(row_mean(x * x) + eps)
            y    = x * rstd * w
            """,
            eps=self.eps,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        need_gain(operands[0], weight=operands[1])
        return super().infer(*operands)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        x, w = operands
        _, rstd = results
        dy = grads[0]
        assert dy is not None
        return b.rms_norm_grad(dy, x, w, rstd), sum_rows(b, b.mul(dy, b.mul(x, rstd)))


@register
class RmsNormGrad(RowOp):
    """dx = rstd (g - n mean(g n)) with g = dy w, n = x rstd."""

    name = "rms_norm_grad"
    results = ("dx",)
    differentiable = False
    samples = (
        ({}, ("f32[3,5]", "f32[3,5]", "f32[5]", "f32[3,1]")),
        ({}, ("f32[2,4,24]", "f32[2,4,24]", "f32[24]", "f32[2,4,1]")),
    )

    def body(self) -> Body:
        return body(
            "dy x w rstd",
            "dx",
            """
            n  = x * rstd
            g  = dy * w
            dx = rstd * (g - n * row_mean(g * n))
            """,
        )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 4)
        dy, x, w, rstd = operands
        need(dy.shape == x.shape, f"gradient {dy} must match {x}")
        need_gain(x, weight=w)
        need(rstd.shape == (*x.shape[:-1], 1), f"statistic {rstd} must match {x}")
        return super().infer(*operands)
