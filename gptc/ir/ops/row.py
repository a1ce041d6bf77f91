"""Base of row ops: one scalar body with reductions along the last axis, as elementwise ops have one without."""

from __future__ import annotations

import numpy as np

from gptc.ir.body import Body, evaluate
from gptc.ir.op import Op, ShapeError, Types, iteration_space, need
from gptc.ir.ops.region import element_names
from gptc.ir.types import Array, Dim, DType, Shape, TensorType


class RowOp(Op):
    """Base: subclasses give `body`, and check their operands in `infer` before they call this one."""

    def body(self) -> Body:
        """From the operands to the results; the iteration space is what the operands broadcast to."""
        raise NotImplementedError

    def space(self, *operands: TensorType) -> Shape:
        """The iteration space [.., cols]."""
        space = iteration_space(operands, len(self.body().inputs))
        need(len(space) > 0, f"needs rows, got {' and '.join(map(str, operands))}")
        return space

    def infer(self, *operands: TensorType) -> Types:
        """Results that vary along the row take its shape and the dtype of the first float operand that fills
        the space; statistics, one number a row, are [.., 1] in f32 (f64 if that dtype is)."""
        space = self.space(*operands)
        full = next((t for t in operands if t.shape == space and t.dtype.is_float), None)
        if full is None:
            raise ShapeError(f"needs an operand of the full shape {list(space)}")
        stat = TensorType.of(DType.f64 if full.dtype is DType.f64 else DType.f32, (*space[:-1], Dim(1)))
        body = self.body()
        vary = element_names(body, [t.rank > 0 and t.shape[-1] == space[-1] for t in operands])
        return tuple(full.with_shape(space) if name in vary else stat for name in body.outputs)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        types = tuple(map(TensorType.of_array, operands))
        values = evaluate(self.body(), operands, self.space(*types))
        return tuple(
            np.broadcast_to(v, t.shape).astype(t.dtype.numpy) for v, t in zip(values, self.infer(*types), strict=True)
        )

    def flops(self, *operands: TensorType) -> int:
        return self.body().flops * TensorType.of(DType.f32, self.space(*operands)).count
