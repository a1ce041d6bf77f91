"""What ranks do together: the mean of a tensor over all of them.

How many ranks there are is known when a program runs.  The interpreter is one rank, whose mean is its own value.
"""

from __future__ import annotations

from gptc.ir.op import Array, Op, Pairs, ShapeError, Types, need, need_count, register
from gptc.ir.types import DType, TensorType


@register
class AllReduce(Op):
    """y = the mean of x over the ranks; `bucket` makes the two halves below of it."""

    name = "all_reduce"
    differentiable = False
    samples = (({}, ("f32[3,5]",)),)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        need(x.dtype in (DType.f32, DType.f64), f"ranks exchange f32, got {x}")
        return (x.with_shape(x.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (operands[0].copy(),)

    def flops(self, *operands: TensorType) -> int:
        return operands[0].count


class Half(Op):
    """Base of the halves of an exchange: as many results as operands, each in place of its operand."""

    tensors: int = 1
    differentiable = False

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        return tuple((i, i) for i in range(self.tensors))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, self.tensors)
        for x in operands:
            if x.dtype not in (DType.f32, DType.f64) or x.strides is not None:
                raise ShapeError(f"ranks exchange dense f32, got {x}")
        return operands

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return tuple(x.copy() for x in operands)

    def flops(self, *operands: TensorType) -> int:
        return sum(x.count for x in operands)


@register
class AllReduceBegin(Half):
    """Hand tensors to the exchange, which owns them until `all_reduce_end`."""

    name = "all_reduce_begin"
    kernel = "all_reduce_begin"
    tensors: int = 1
    samples = (({}, ("f32[3,5]",)), ({"tensors": 3}, ("f32[7]", "f32[2,3]", "f32[1]")))


@register
class AllReduceEnd(Half):
    """Wait for the means of the tensors of one `all_reduce_begin`, in the same order."""

    name = "all_reduce_end"
    kernel = "all_reduce_end"
    lazy = True
    tensors: int = 1
    samples = (({}, ("f32[3,5]",)), ({"tensors": 3}, ("f32[7]", "f32[2,3]", "f32[1]")))
