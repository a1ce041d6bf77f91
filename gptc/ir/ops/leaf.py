"""Leaves: values that a graph does not compute."""

from __future__ import annotations

import numpy as np

from gptc.ir.op import Op, Types, need_count, register
from gptc.ir.types import Array, DType, TensorType


class Leaf(Op):
    """An op without operands.  `kernel` stays None: leaves are places, not work."""

    differentiable = False

    def flops(self, *operands: TensorType) -> int:
        return 0


@register
class Input(Leaf):
    """A tensor that the caller sets before each call: tokens, targets, the learning rate."""

    name = "input"
    key: str = ""
    """The name under which the caller sets it."""
    dtype: DType = DType.f32
    shape: tuple[int, ...] = ()

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 0)
        return (TensorType.of(self.dtype, self.shape),)


@register
class Buffer(Leaf):
    """A tensor that lives across calls: a parameter, a copy of one in another dtype, or the optimizer's state.

    `init` is the text of an init spec (`normal(0.02)`, `zeros`, ...); `valid` is the shape it fills, the
    rest (vocabulary padding) is zero; `decay` puts a parameter into the weight-decay group.
    """

    name = "buffer"
    key: str = ""
    role: str = "param"
    """`param`, `copy` or `state`."""
    dtype: DType = DType.f32
    shape: tuple[int, ...] = ()
    init: str = "zeros"
    valid: tuple[int, ...] = ()
    decay: bool = False

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 0)
        return (TensorType.of(self.dtype, self.shape),)


@register
class Constant(Leaf):
    """A rank-0 number.  Fused regions spell it as a literal."""

    name = "constant"
    value: float = 0.0
    dtype: DType = DType.f32

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 0)
        return (TensorType.of(self.dtype, ()),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.asarray(self.value, self.dtype.numpy),)


@register
class Iota(Op):
    """0, 1, ..., count-1 as i32: the positions of a sequence."""

    name = "iota"
    differentiable = False
    count: int = 1

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 0)
        return (TensorType.of(DType.i32, (self.count,)),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.arange(self.count, dtype=np.int32),)

    samples = (({"count": 5}, ()),)
