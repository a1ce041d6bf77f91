"""Elementwise ops: one scalar body each, which the interpreter, the fuser and both targets use.

Operands broadcast as in NumPy; a gradient has the broadcast shape, and `differentiate` sums it back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gptc.ir.body import Body, body, evaluate
from gptc.ir.op import Grads, Op, Samples, Types, Values, iteration_space, need, need_count, register
from gptc.ir.types import Array, DType, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


class Elementwise(Op):
    """Base: subclasses give `code`, or override `body` when attributes enter it."""

    code: ClassVar[Body]
    samples: ClassVar[Samples] = (({}, ("f32[3,5]",)), ({}, ("f32[2,4,7]",)))

    def body(self) -> Body:
        """One output `y` from the operands."""
        return self.code

    def infer(self, *operands: TensorType) -> Types:
        shape = iteration_space(operands, len(self.body().inputs))
        kinds = {t.dtype for t in operands if t.dtype.is_float}
        need(len(kinds) == 1, f"needs operands of one float type, got {' and '.join(map(str, operands))}")
        return (TensorType.of(next(iter(kinds)), shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        shape = np.broadcast_shapes(*(a.shape for a in operands))
        kind = next(a.dtype for a in operands if a.dtype.kind not in "iu")
        (y,) = evaluate(self.body(), operands, shape)
        return (np.broadcast_to(y, shape).astype(kind),)

    def flops(self, *operands: TensorType) -> int:
        return self.body().flops * self.infer(*operands)[0].count


class Binary(Elementwise):
    samples = (
        ({}, ("f32[3,5]", "f32[3,5]")),
        ({}, ("f32[2,3,5]", "f32[5]")),
        ({}, ("f32[2,3,5]", "f32[2,3,1]")),
        ({}, ("f32[4]", "f32[]")),
    )


@register
class Add(Binary):
    """y = a + b."""

    name = "add"
    code = body("a b", "y", "y = a + b")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return grads[0], grads[0]


@register
class Sub(Binary):
    """y = a - b."""

    name = "sub"
    code = body("a b", "y", "y = a - b")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return grads[0], b.neg(grads[0])


@register
class Mul(Binary):
    """y = a b."""

    name = "mul"
    code = body("a b", "y", "y = a * b")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        left, right = operands
        return b.mul(grads[0], right), b.mul(grads[0], left)


@register
class Div(Binary):
    """y = a / b."""

    name = "div"
    code = body("a b", "y", "y = a / b")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        da = b.div(grads[0], operands[1])
        return da, b.neg(b.mul(da, results[0]))


@register
class Neg(Elementwise):
    """y = -x."""

    name = "neg"
    code = body("x", "y", "y = -x")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.neg(grads[0]),)


@register
class Exp(Elementwise):
    """y = e^x."""

    name = "exp"
    code = body("x", "y", "y = exp(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.mul(grads[0], results[0]),)


@register
class Tanh(Elementwise):
    """y = tanh(x); dy/dx = 1 - y^2."""

    name = "tanh"
    code = body("x", "y", "y = tanh(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.mul(grads[0], b.sub(b.scalar(1), b.mul(results[0], results[0]))),)


@register
class Sin(Elementwise):
    """y = sin(x), x in radians."""

    name = "sin"
    code = body("x", "y", "y = sin(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.mul(grads[0], b.cos(operands[0])),)


@register
class Cos(Elementwise):
    """y = cos(x), x in radians."""

    name = "cos"
    code = body("x", "y", "y = cos(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.neg(b.mul(grads[0], b.sin(operands[0]))),)


@register
class Sigmoid(Elementwise):
    """y = 1 / (1 + e^-x); dy/dx = y (1 - y)."""

    name = "sigmoid"
    code = body("x", "y", "y = sigmoid(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        (y,) = results
        return (b.mul(grads[0], b.mul(y, b.sub(b.scalar(1), y))),)


@register
class Relu(Elementwise):
    """y = max(x, 0)."""

    name = "relu"
    code = body("x", "y", "y = maximum(x, 0)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.relu_grad(grads[0], operands[0]),)


@register
class ReluGrad(Binary):
    """dx = dy where x > 0, else 0."""

    name = "relu_grad"
    code = body("dy x", "dx", "dx = where(lt(0, x), dy, 0)")
    differentiable = False


@register
class Silu(Elementwise):
    """y = x sigmoid(x) (Elfwing et al. 2017)."""

    name = "silu"
    code = body("x", "y", "y = x * sigmoid(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.silu_grad(grads[0], operands[0]),)


@register
class SiluGrad(Binary):
    """dx = dy (s + x s (1 - s)) with s = sigmoid(x)."""

    name = "silu_grad"
    code = body("dy x", "dx", "s = sigmoid(x)\ndx = dy * (s + x * s * (1 - s))")
    differentiable = False


@register
class Gelu(Elementwise):
    """Tanh form of GELU (Hendrycks & Gimpel 2016): y = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""

    name = "gelu"
    code = body("x", "y", "y = gelu(x)")

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.gelu_grad(grads[0], operands[0]),)


@register
class GeluGrad(Binary):
    """dx = dy (s + x s (1 - s) 2u') with s = sigmoid(2u), 2u' = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)."""

    name = "gelu_grad"
    code = body(
        "dy x",
        "dx",
        """
        s  = sigmoid(k * (x + c * x * x * x))
        dx = dy * (s + x * s * (1 - s) * k * (1 + 3 * c * x * x))
        """,
        k=2 * math.sqrt(2 / math.pi),
        c=0.044715,
    )
    differentiable = False


@register
class CausalMask(Elementwise):
    """Keep scores at or below the diagonal of the last two axes [.., T, T]; above it the value is `fill`."""

    name = "causal_mask"
    fill: float = -math.inf
    samples = (({}, ("f32[5,5]",)), ({"fill": 0.0}, ("f32[2,3,4,4]",)))

    def body(self) -> Body:
        return body("x", "y", "y = where(le(col(), row()), x, fill)", fill=self.fill)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        need(operands[0].rank >= 2, f"needs at least two axes, got {operands[0]}")
        return super().infer(*operands)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.causal_mask(grads[0], fill=0.0),)


@register
class Cast(Elementwise):
    """x in a float type, rounded to nearest even."""

    name = "cast"
    dtype: DType = DType.f32
    samples = (({"dtype": DType.bf16}, ("f32[3,5]",)), ({"dtype": DType.f32}, ("bf16[3,5]",)))

    def body(self) -> Body:
        rounding = {DType.bf16: "y = round_bf16(x)", DType.f16: "y = round_f16(x)"}
        return body("x", "y", rounding[self.dtype]) if self.dtype in rounding else Body(("x",), (), ("x",))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        need(self.dtype.is_float, f"casts to floats, not to {self.dtype}")
        return (TensorType.of(self.dtype, operands[0].shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        (x,) = operands
        return (x if x.dtype == np.float64 else x.astype(self.dtype.numpy),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.cast(grads[0], dtype=operands[0].type.dtype),)


@register
class Copy(Elementwise):
    """y = x, contiguous whatever the strides of x."""

    name = "copy"
    code = Body(("x",), (), ("x",))

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (grads[0],)


@register
class Accumulate(Elementwise):
    """Gradient accumulation: y = grad on the first micro-step, when `sum` may be anything, else sum + grad."""

    name = "accumulate"
    code = body("sum grad first", "y", "y = where(lt(0.5, first), grad, sum + grad)")
    differentiable = False
    samples = (({}, ("f32[3,5]", "f32[3,5]", "f32[]")),)


@register
class ClipScale(Elementwise):
    """The factor min(1, limit / norm) that brings a gradient of global norm `norm` to at most `limit`."""

    name = "clip_scale"
    limit: float = 1.0
    differentiable = False
    samples = (({"limit": 0.5}, ("f32[]",)),)

    def body(self) -> Body:
        return body("norm", "y", "y = where(lt(limit, norm), limit / norm, 1)", limit=self.limit)


@register
class SkipAbove(Elementwise):
    """The factor `scale` where x is finite and at most `most`, else 0, which tells an optimizer to change nothing.

    A limit `most` of 0 is none.
    """

    name = "skip_above"
    code = body(
        "scale x most",
        "y",
        """
        within = where(le(x, most), scale, 0)
        known  = where(eq(most, 0), scale, within)
        y      = where(lt(abs(x), inf), known, 0)
        """,
    )
    differentiable = False
    samples = (({}, ("f32[]", "f32[]", "f32[]")),)
