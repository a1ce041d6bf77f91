"""The update of parameters, and the global gradient norm that clips it.

An optimizer's operand `scale` is a factor on the gradient.  Where it is not positive the update is skipped: every
result is the operand that it takes the place of, to the bit, whatever the gradient holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from gptc.ir.body import Body, Stmt, body, evaluate
from gptc.ir.op import Op, Samples, Types, need, need_count, register
from gptc.ir.ops.random import StochasticRound
from gptc.ir.types import Array, DType, TensorType
from gptc.rates import RATES


def scalar_like(x: TensorType) -> TensorType:
    """f32[], or f64[] for f64."""
    return TensorType.of(DType.f64 if x.dtype is DType.f64 else DType.f32, ())


def need_scalars(operands: Sequence[TensorType]) -> None:
    """One or more numbers of one dtype."""
    need(len(operands) > 0, "takes at least one operand")
    for x in operands:
        need(x.rank == 0 and x.dtype is operands[0].dtype, f"operands are scalars of one dtype, got {x}")


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
        need_scalars(operands)
        return (scalar_like(operands[0]),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        total = sum(float(x) for x in operands)
        return (np.asarray(np.sqrt(total), operands[0].dtype),)

    def flops(self, *operands: TensorType) -> int:
        return len(operands)


@register
class AdamW(Op):
    """One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019), bias-corrected:
    m' = beta1 m + (1 - beta1) g,  v' = beta2 v + (1 - beta2) g^2  with g scaled by `scale`;
    p' = p - lr (mhat / (sqrt(vhat) + eps) + weight_decay p),  mhat = m' / (1 - beta1^step),  vhat likewise.

    Operands p, g, m, v, then the scalars lr, step (1 at the first update) and scale.  With `copy`, a dtype, a fourth
    result is p' rounded to it; or p itself is bf16.  With `stochastic` what is bf16 is rounded as `stochastic_round`
    does, by a seed that stands behind v.
    """

    name = "adamw"
    kernel = "adamw"
    results = ("p", "m", "v", "copy")
    in_place = ((0, 0), (1, 2), (2, 3))
    differentiable = False
    beta1: float = RATES["adamw"]["beta1"]
    beta2: float = RATES["adamw"]["beta2"]
    eps: float = RATES["adamw"]["eps"]
    weight_decay: float = RATES["adamw"]["weight_decay"]
    eps_hat: bool = False
    """Add eps to the root of v' as it is, not corrected for its bias: the efficient form at the end of section 2 of
    Kingma and Ba 2015."""
    copy: str = ""
    stochastic: bool = False
    samples = (
        ({}, ("f32[3,5]", "f32[3,5]", "f32[3,5]", "f32[3,5]", "f32[]", "f32[]", "f32[]")),
        ({"weight_decay": 0.0, "beta2": 0.999}, ("f32[7]", "f32[7]", "f32[7]", "f32[7]", "f32[]", "f32[]", "f32[]")),
        ({"eps_hat": True, "eps": 1e-3}, ("f32[7]", "f32[7]", "f32[7]", "f32[7]", "f32[]", "f32[]", "f32[]")),
        ({"copy": "bf16"}, ("f32[37]", "f32[37]", "f32[37]", "f32[37]", "f32[]", "f32[]", "f32[]")),
        ({}, ("bf16[37]", "f32[37]", "f32[37]", "f32[37]", "f32[]", "f32[]", "f32[]")),
        ({"stochastic": True, "copy": "bf16"}, (*("f32[37]",) * 4, "i32[]", "f32[]", "f32[]", "f32[]")),
        ({"stochastic": True}, ("bf16[3,5]", *("f32[3,5]",) * 3, "i32[]", "f32[]", "f32[]", "f32[]")),
    )

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 7 + self.stochastic)
        p, g, m, v = operands[:4]
        for label, other in (("gradient", g), ("first moment", m), ("second moment", v)):
            need(other.shape == p.shape, f"{label} {other} must match the parameter {p}")
        for label, scalar in zip(("scale", "step", "lr", "seed"), operands[:3:-1], strict=False):
            need(scalar.rank == 0, f"{label} must be a scalar, got {scalar}")
        copy = (TensorType.of(DType(self.copy), p.shape),) if self.copy else ()
        return p.with_shape(p.shape), m.with_shape(m.shape), v.with_shape(v.shape), *copy

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        work = np.result_type(np.float32, operands[0].dtype)
        p, g, m, v = (x.astype(work, copy=False) for x in operands[:4])
        lr, step, scale = (float(x) for x in operands[-3:])
        kinds = [operands[i].dtype for i in (0, 2, 3)]
        if self.copy:
            kinds.append(DType(self.copy).numpy if work == np.float32 else work)

        def stored(p: Array, m: Array, v: Array) -> tuple[Array, ...]:
            narrow = evaluate(StochasticRound.code, (p, operands[4]), p.shape)[0] if self.stochastic else p
            new = (p if self.copy else narrow, m, v, narrow)
            return tuple(x.astype(kind, copy=False) for x, kind in zip(new, kinds, strict=False))

        if not scale > 0:
            return stored(p, m, v)
        g = g * work.type(scale)
        mean = work.type(self.beta1) * m + work.type(1 - self.beta1) * g
        square = work.type(self.beta2) * v + work.type(1 - self.beta2) * g * g
        unbiased = mean / work.type(1 - self.beta1**step)
        correction = 1 - self.beta2**step
        root = np.sqrt(square / work.type(1 if self.eps_hat else correction))
        unbiased = unbiased * work.type(np.sqrt(correction) if self.eps_hat else 1)
        new = p - work.type(lr) * (unbiased / (root + work.type(self.eps)) + work.type(self.weight_decay) * p)
        return stored(new, mean, square)

    def flops(self, *operands: TensorType) -> int:
        return 20 * operands[0].count


class Rule(Op):
    """Base of updates that are one scalar body: p, g, m, then the scalars lr and scale (a factor on g) -> p, m."""

    results = ("p", "m")
    in_place = ((0, 0), (1, 2))
    differentiable = False
    samples: ClassVar[Samples] = (({}, ("f32[3,5]", "f32[3,5]", "f32[3,5]", "f32[]", "f32[]")),)

    def rule(self) -> Body:
        """From the operands to p2 and m2, where the update is not skipped."""
        raise NotImplementedError

    def body(self) -> Body:
        """From the operands to the results."""
        code = self.rule()
        pairs = zip(code.outputs, ("p", "m"), strict=False)
        kept = tuple(Stmt(f"{new}_or_{old}", "where", ("go", new, old)) for new, old in pairs)
        stmts = *code.stmts, Stmt("go", "lt", (0.0, "scale")), *kept
        return Body(code.inputs, stmts, tuple(stmt.result for stmt in kept))

    def flops(self, *operands: TensorType) -> int:
        return self.body().flops * operands[0].count

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, len(self.body().inputs))
        *tensors, lr, scale = operands
        p, *others = tensors
        for other in others:
            need(other.shape == p.shape, f"{other} must match the parameter {p}")
        for label, scalar in (("lr", lr), ("scale", scale)):
            need(scalar.rank == 0, f"{label} must be a scalar, got {scalar}")
        return tuple(p.with_shape(p.shape) for _ in self.body().outputs)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        p = operands[0]
        return tuple(np.asarray(y, p.dtype) for y in evaluate(self.body(), operands, p.shape))


@register
class Sgd(Rule):
    """m' = momentum m + (g + weight_decay p),  p' = p - lr m' (Sutskever et al. 2013, in the form that PyTorch has).

    Without momentum there is no m: p, g, lr, scale -> p.
    """

    name = "sgd"
    momentum: float = RATES["sgd"]["momentum"]
    weight_decay: float = RATES["sgd"]["weight_decay"]
    samples = (
        *Rule.samples,
        ({"momentum": 0.0, "weight_decay": 0.1}, ("f32[7]", "f32[7]", "f32[]", "f32[]")),
    )

    def rule(self) -> Body:
        grad = "scale * g + decay * p" if self.weight_decay else "scale * g"
        if self.momentum:
            text = f"m2 = momentum * m + ({grad})\np2 = p - lr * m2"
            return body("p g m lr scale", "p2 m2", text, momentum=self.momentum, decay=self.weight_decay)
        return body("p g lr scale", "p2", f"p2 = p - lr * ({grad})", decay=self.weight_decay)


@register
class Lion(Rule):
    """p' = p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p),  m' = beta2 m + (1 - beta2) g.

    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.
    """

    name = "lion"
    beta1: float = RATES["lion"]["beta1"]
    beta2: float = RATES["lion"]["beta2"]
    weight_decay: float = RATES["lion"]["weight_decay"]
    samples = (*Rule.samples, ({"weight_decay": 0.0}, ("f32[7]", "f32[7]", "f32[7]", "f32[]", "f32[]")))

    def rule(self) -> Body:
        change = "(sign(mix) + decay * p)" if self.weight_decay else "sign(mix)"
        return body(
            "p g m lr scale",
            "p2 m2",
            f"""
            grad = scale * g
            mix  = beta1 * m + keep1 * grad
            m2   = beta2 * m + keep2 * grad
            p2   = p - lr * {change}
            """,
            beta1=self.beta1, keep1=1 - self.beta1, beta2=self.beta2, keep2=1 - self.beta2, decay=self.weight_decay,
        )  # fmt: skip


@register
class Tiger(Rule):
    """m' = beta1 m + (1 - beta1) g,  p' = p - lr/2 where m' > 0, p + lr/2 elsewhere: the sign of an average (wyGPT)."""

    name = "tiger"
    beta1: float = RATES["tiger"]["beta1"]

    def rule(self) -> Body:
        return body(
            "p g m lr scale",
            "p2 m2",
            """
            m2 = beta1 * m + keep1 * (scale * g)
            p2 = p - lr * where(lt(0, m2), 0.5, -0.5)
            """,
            beta1=self.beta1, keep1=1 - self.beta1,
        )  # fmt: skip
