"""One op on several sets of tensors: what a GPU does by one launch where the sets are small or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from gptc.ir.op import Op, Pairs, Ranks, Types, need, register
from gptc.ir.ops.collective import OwnShare, OwnSquares
from gptc.ir.ops.optimizer import AdamW, SumSquares
from gptc.ir.types import Array, TensorType

T = TypeVar("T")


@register
class Foreach(Op):
    """`op`, once for each of `times` sets of operands: what an optimizer does to all parameters.

    Operand i of every set, then operand i + 1 of every set, and so on; the last `shared` operands are the same for all
    sets and stand once.  Results lie as operands do.  The name is that of PyTorch's optimizers that do the same.
    """

    name = "foreach"
    differentiable = False
    op: Op = SumSquares()
    times: int = 1
    shared: int = 0
    samples = (
        ({"op": SumSquares(), "times": 3}, ("f32[3,5]", "f32[70001]", "f32[1]")),
        (
            {"op": AdamW(copy="bf16"), "times": 2, "shared": 3},
            ("f32[7]", "f32[33,65]") * 4 + ("f32[]",) * 3,
        ),
        ({"op": OwnSquares(), "times": 2}, ("f32[3,5]", "f32[70001]")),
        ({"op": OwnSquares(of=30), "times": 2}, ("f32[32]", "f32[32]")),
        ({"op": OwnShare(share=9008), "times": 3}, ("f32[9001]", "f32[9,1000]", "f32[9008]")),
    )

    @property
    def kernel(self) -> str | None:  # type: ignore[override]
        return self.op.kernel

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        n = self.times
        return tuple((i * n + k, j * n + k) for i, j in self.op.in_place for k in range(n))

    def sets(self, operands: Sequence[T]) -> list[tuple[T, ...]]:
        """The operands of each application of `op`."""
        own = len(operands) - self.shared
        need(own > 0 and own % self.times == 0, f"{own} operands are no {self.times} sets")
        return [(*operands[k : own : self.times], *operands[own:]) for k in range(self.times)]

    def infer(self, *operands: TensorType) -> Types:
        return columns([self.op.infer(*each) for each in self.sets(operands)])

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return columns([self.op.eval(*each) for each in self.sets(operands)])

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        applied = [self.op.together(each) for each in zip(*map(self.sets, ranks), strict=True)]
        return [columns([found[rank] for found in applied]) for rank in range(len(ranks))]

    def flops(self, *operands: TensorType) -> int:
        return sum(self.op.flops(*each) for each in self.sets(operands))

    def moved(self, *operands: TensorType) -> int | None:
        sizes = [self.op.moved(*each) for each in self.sets(operands)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


def columns(rows: Sequence[Sequence[T]]) -> tuple[T, ...]:
    """First items first: how the results of several applications lie."""
    return tuple(item for column in zip(*rows, strict=True) for item in column)
