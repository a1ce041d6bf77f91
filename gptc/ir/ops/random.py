"""Random numbers.  They have no state: each is a function of a step's number, a stream's, and an element's index.

So the interpreter and every target draw the same bits, in any order and on any number of threads, and a run that goes
on from a checkpoint draws those that it would have drawn.
"""

from __future__ import annotations

from gptc.ir.body import body, evaluate
from gptc.ir.op import Types, need, need_count, register
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.types import Array, DType, TensorType


@register
class Seeds(Elementwise):
    """y[k] = noise(step, k): the seed of each of `count` streams at a step.  `noise` is a function of bodies."""

    name = "seeds"
    count: int = 1
    code = body("step", "y", "y = noise(step, col())")
    differentiable = False
    samples = (({"count": 5}, ("f32[]",)),)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        need(operands[0].rank == 0, f"the step must be a scalar, got {operands[0]}")
        return (TensorType.of(DType.i32, (self.count,)),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        (y,) = evaluate(self.code, operands, (self.count,))
        return (y.astype("int32"),)


@register
class StochasticRound(Elementwise):
    """x[i] in bf16, rounded up or down by noise(i, seed) such that the mean over all seeds is x[i].

    Connolly, Higham and Mary, Stochastic Rounding and Its Probabilistic Backward Error Analysis, 2021, mode 1.  Sums of
    many small updates survive it, which rounding to nearest loses one by one.
    """

    name = "stochastic_round"
    code = body("x seed", "y", "y = stochastic_bf16(x, noise(index(), seed))")
    differentiable = False
    samples = (({}, ("f32[3,5]", "i32[]")), ({}, ("f32[2,4,7]", "i32[]")), ({}, ("f32[37]", "i32[]")))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2)
        x, seed = operands
        need(x.dtype.is_float and seed.rank == 0, f"needs floats and a scalar seed, got {x} and {seed}")
        return (TensorType.of(DType.bf16, x.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        (y,) = evaluate(self.code, operands, operands[0].shape)
        return (y if y.dtype == float else y.astype(DType.bf16.numpy),)
