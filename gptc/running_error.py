"""Arithmetic with running error bounds (Higham 2002, sections 3.1 to 3.3).

Each value is a float64 array with a bound on the error of its float32 counterpart.  A bound grows by what the
operands bring along and by the rounding of the step itself; a sum of n terms in any order adds n roundings of the
sum of their magnitudes.  Nothing is fitted: the only constants are units of roundoff and the accuracy that
`support.h` states for its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptc.ir.body import INDICES, REDUCTIONS, SCALARS, Body, positions
from gptc.ir.types import Array, DType

U = 2.0**-24
"""Unit roundoff of float32."""
TINY = 2.0**-120
"""What flushing an exponential or a subnormal to zero may cost, with room for the products that follow."""
ROUND = {DType.bf16: 2.0**-8, DType.f16: 2.0**-11}
"""Relative rounding of a store; that of f32 is part of the last step, and whole numbers are exact."""
SUBNORMAL = {DType.f16: 2.0**-25}
"""Absolute rounding of a store below 2^-14; the others have no such numbers where it would show."""
UNITS = {"exp": 5, "log": 2, "tanh": 4, "sin": 4, "cos": 4, "sigmoid": 8, "gelu": 40, "rsqrt": 2,
         "copy": 0, "neg": 0, "abs": 0, "sign": 0, "maximum": 0, "minimum": 0, "where": 0, "lt": 0, "le": 0, "eq": 0,
         "round_bf16": 2.0**16, "round_f16": 2.0**13, "noise": 0, "stochastic_bf16": 2.0**16}  # fmt: skip
"""Roundoff units of one evaluation, 1 for all others: an ulp is at most two units, and a softmax may take powers of two
within 2.3 ulps for exp.  Stochastic rounding errs by up to twice as much as rounding to nearest; the other half is that
of the store behind it, which changes nothing more."""
GROWTH = {"exp": 1.25, "sigmoid": 1.25}
"""Units more for each unit of the operand's magnitude, on a GPU."""
LARGEST = 128.0
"""Magnitude from which exponentials are infinite or flushed to zero."""


@dataclass(frozen=True)
class Bounded:
    """Values and the largest error that each may have."""

    value: Array
    error: Array

    @classmethod
    def exact(cls, value: Array) -> Bounded:
        wide = value if value.dtype.kind in "iu" else value.astype(np.float64)
        return cls(wide, np.broadcast_to(0.0, wide.shape))

    def rounded(self, units: float | Array) -> Bounded:
        """After `units` more roundings."""
        return Bounded(self.value, self.error + units * U * np.abs(self.value) + TINY)

    def reshape(self, *shape: int) -> Bounded:
        return Bounded(self.value.reshape(shape), self.error.reshape(shape))


def _same(y: Array, x: Sequence[Bounded]) -> Array:
    return x[0].error


def _where(y: Array, x: Sequence[Bounded]) -> Array:
    """A condition that is not certain may pick the other side."""
    condition, yes, no = x
    picked = np.where(condition.value, yes.error, no.error)
    return np.where(condition.error > 0, np.abs(yes.value - no.value) + yes.error + no.error, picked)


def _compare(y: Array, x: Sequence[Bounded]) -> Array:
    """1 where the errors of the operands could turn the answer."""
    margin = x[0].error + x[1].error
    return np.asarray((np.abs(x[0].value - x[1].value) <= margin) & (margin > 0))


def _div(y: Array, x: Sequence[Bounded]) -> Array:
    return np.asarray((x[0].error + np.abs(y) * x[1].error) / np.maximum(np.abs(x[1].value) - x[1].error, TINY))


PROPAGATE: dict[str, Callable[[Array, Sequence[Bounded]], Array]] = {
    "add": lambda y, x: x[0].error + x[1].error,
    "sub": lambda y, x: x[0].error + x[1].error,
    "mul": lambda y, x: np.abs(x[0].value) * x[1].error + (np.abs(x[1].value) + x[1].error) * x[0].error,
    "div": _div,
    "exp": lambda y, x: y * np.expm1(np.minimum(x[0].error, 700.0)),
    "log": lambda y, x: x[0].error / np.maximum(x[0].value - x[0].error, TINY),
    "sqrt": lambda y, x: x[0].error / np.maximum(y, TINY),
    "rsqrt": lambda y, x: y * x[0].error / np.maximum(x[0].value - x[0].error, TINY),
    "sigmoid": lambda y, x: 0.25 * x[0].error,
    "gelu": lambda y, x: 1.13 * x[0].error,
    "maximum": lambda y, x: np.maximum(x[0].error, x[1].error),
    "minimum": lambda y, x: np.maximum(x[0].error, x[1].error),
    "where": _where,
    "lt": _compare,
    "le": _compare,
    "eq": _compare,
    "sign": lambda y, x: 2.0 * (np.abs(x[0].value) <= x[0].error) * (x[0].error > 0),
}
"""Errors of the operands -> error of the exact function of them; all others pass it on as it is."""


def step(fn: str, args: Sequence[Bounded], space: Sequence[int]) -> Bounded:
    """One statement of a body over an iteration space."""
    if fn in INDICES:
        return Bounded.exact(positions(fn, space))
    if fn in REDUCTIONS:
        return reduced(fn, args[0], space)
    value = np.asarray(SCALARS[fn].numpy(*(a.value for a in args)))
    spread = PROPAGATE.get(fn, _same)
    error = np.broadcast_to(np.asarray(spread(value, args), np.float64), value.shape)
    # support.h promises no relative accuracy where gelu underflows, nor beside the zeros of sin and cos
    floor = {"gelu": 1e-6, "sin": 2.0**-30, "cos": 2.0**-30, "round_f16": SUBNORMAL[DType.f16]}.get(fn, 0.0)
    units: float | Array = UNITS.get(fn, 1)
    if fn in GROWTH:
        units = units + GROWTH[fn] * np.minimum(np.abs(args[0].value), LARGEST)
    return Bounded(value, error + floor).rounded(units) if np.any(units) else Bounded(value, error)


def reduced(fn: str, x: Bounded, space: Sequence[int]) -> Bounded:
    """`row_sum`, `row_mean` or `row_max` over the last axis."""
    value, error = (np.broadcast_to(a, space) for a in (x.value, x.error))
    if fn == "row_max":
        return Bounded(value.max(-1, keepdims=True), error.max(-1, keepdims=True))
    total = summed(Bounded(value, error), (value.ndim - 1,))
    total = Bounded(np.expand_dims(total.value, -1), np.expand_dims(total.error, -1))
    n = value.shape[-1]
    # A mean is a quotient, or on a GPU a product with 1 / n.
    return total if fn == "row_sum" else Bounded(total.value / n, total.error / n).rounded(2)


def summed(x: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The sum over `axes`, added in any order."""
    n = int(np.prod([x.value.shape[a] for a in axes])) if axes else 0
    magnitude = np.abs(x.value).sum(axes) + x.error.sum(axes)
    return Bounded(np.asarray(x.value.sum(axes)), np.asarray(x.error.sum(axes) + n * U * magnitude))


def product(a: Bounded, b: Bounded) -> Bounded:
    """Matrix product over the last axes, its K terms added in any order."""
    magnitude = np.matmul(np.abs(a.value) + a.error, np.abs(b.value) + b.error)
    exact = np.matmul(np.abs(a.value), np.abs(b.value)) if a.error.any() or b.error.any() else magnitude
    return Bounded(np.matmul(a.value, b.value), magnitude - exact + (a.value.shape[-1] + 1) * U * magnitude + TINY)


def run_body(code: Body, inputs: Sequence[Bounded], space: Sequence[int]) -> list[Bounded]:
    """The outputs of a body."""
    values = dict(zip(code.inputs, inputs, strict=True))
    last = {a: i for i, stmt in enumerate(code.stmts) for a in stmt.args if isinstance(a, str)}
    for i, stmt in enumerate(code.stmts):
        args = [values[a] if isinstance(a, str) else Bounded.exact(np.asarray(a, np.float32)) for a in stmt.args]
        values[stmt.result] = step(stmt.fn, args, space)
        for name in {a for a in stmt.args if isinstance(a, str)} - set(code.outputs):
            if last[name] == i:
                del values[name]  # these arrays are large
    return [values[name] for name in code.outputs]


def swap(x: Bounded) -> Bounded:
    """Transpose the last two axes."""
    return Bounded(x.value.swapaxes(-1, -2), x.error.swapaxes(-1, -2))
