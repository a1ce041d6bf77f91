"""Ops that move or rename elements without computing: the layout pass turns most of them into views."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gptc.ir.op import Grads, Op, Types, Values, need, need_count, register
from gptc.ir.types import Array, TensorType

if TYPE_CHECKING:
    from gptc.ir.build import Builder


class ShapeOp(Op):
    """Base: no flops."""

    def flops(self, *operands: TensorType) -> int:
        return 0


@register
class Reshape(ShapeOp):
    """The same elements in row-major order under another shape."""

    name = "reshape"
    shape: tuple[int, ...] = ()
    samples = (({"shape": (2, 6)}, ("f32[3,4]",)), ({"shape": ()}, ("f32[1,1]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        need(
            min(self.shape, default=1) > 0 and math.prod(self.shape) == x.count,
            f"cannot give {x} the shape {list(self.shape)}",
        )
        return (x.with_shape(self.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (operands[0].reshape(self.shape),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.reshape(grads[0], shape=operands[0].type.shape),)


@register
class Transpose(ShapeOp):
    """Axis i of the result is axis perm[i] of the operand."""

    name = "transpose"
    perm: tuple[int, ...] = ()
    samples = (({"perm": (1, 0)}, ("f32[3,4]",)), ({"perm": (0, 2, 1, 3)}, ("f32[2,3,4,5]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        need(sorted(self.perm) == list(range(x.rank)), f"{list(self.perm)} is no permutation of the axes of {x}")
        return (x.with_shape(x.shape[p] for p in self.perm),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (operands[0].transpose(self.perm),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        inverse = tuple(int(i) for i in np.argsort(self.perm))
        return (b.transpose(grads[0], perm=inverse),)


@register
class Flip(ShapeOp):
    """The elements along one axis in reverse order."""

    name = "flip"
    axis: int = -1
    samples = (({}, ("f32[3,4]",)), ({"axis": 1}, ("f32[2,2,3]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        need(-x.rank <= self.axis < x.rank, f"{x} has no axis {self.axis}")
        return (x.with_shape(x.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.flip(operands[0], self.axis),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (b.flip(grads[0], axis=self.axis),)


@register
class Split(ShapeOp):
    """Cut one axis into pieces of the given `sizes`, or into `parts` equal ones."""

    name = "split"
    axis: int = -1
    parts: int = 2
    sizes: tuple[int, ...] = ()
    samples = (
        ({"parts": 3}, ("f32[2,6]",)),
        ({"axis": 0}, ("f32[4,3]",)),
        ({"sizes": (4, 1, 2)}, ("f32[2,7]",)),
    )

    def lengths(self, x: TensorType) -> tuple[int, ...]:
        """Size of each piece along the axis."""
        need(-x.rank <= self.axis < x.rank, f"{x} has no axis {self.axis}")
        size = x.shape[self.axis]
        if self.sizes:
            fits = min(self.sizes) > 0 and sum(self.sizes) == size
            need(fits, f"axis {self.axis} of {x} is not {' + '.join(map(str, self.sizes))}")
            return self.sizes
        fits = self.parts > 0 and size % self.parts == 0
        need(fits, f"axis {self.axis} of {x} does not divide into {self.parts} parts")
        return (size // self.parts,) * self.parts

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        axis = self.axis % max(1, x.rank)
        return tuple(x.with_shape((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in self.lengths(x))

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        (x,) = operands
        ends = np.cumsum(self.lengths(TensorType.of_array(x)))
        return tuple(np.split(x, ends[:-1], self.axis))

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        pieces = [
            g if g is not None else b.broadcast_to(b.scalar(0, r.type.dtype), shape=r.type.shape)
            for g, r in zip(grads, results, strict=True)
        ]
        return (b.concat(*pieces, axis=self.axis),)


@register
class Concat(ShapeOp):
    """Join any number of tensors along one axis."""

    name = "concat"
    axis: int = -1
    kernel = "concat"
    samples = (({}, ("f32[2,3]", "f32[2,4]")), ({"axis": 0}, ("f32[2,3]", "f32[1,3]", "f32[2,3]")))

    def infer(self, *operands: TensorType) -> Types:
        need(len(operands) > 0, "takes at least one operand")
        first = operands[0]
        need(-first.rank <= self.axis < first.rank, f"{first} has no axis {self.axis}")
        axis = self.axis % first.rank
        for other in operands[1:]:
            aligned = (*other.shape[:axis], first.shape[axis], *other.shape[axis + 1 :])
            fits = other.dtype is first.dtype and aligned == first.shape
            need(fits, f"cannot join {first} and {other} along axis {self.axis}")
        shape: list[int] = list(first.shape)
        shape[axis] = sum(t.shape[axis] for t in operands)
        return (first.with_shape(shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.concatenate(operands, self.axis),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        sizes = tuple(int(v.type.shape[self.axis]) for v in operands)
        equal = len(set(sizes)) == 1
        cut = Split(axis=self.axis, parts=len(sizes)) if equal else Split(axis=self.axis, sizes=sizes)
        assert grads[0] is not None
        return b.apply(cut, (grads[0],))


@register
class BroadcastTo(ShapeOp):
    """Repeat axes of size 1 (or missing in front) up to `shape`."""

    name = "broadcast_to"
    shape: tuple[int, ...] = ()
    samples = (({"shape": (3, 4)}, ("f32[3,1]",)), ({"shape": (2, 3)}, ("f32[]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        lead = len(self.shape) - x.rank
        fits = lead >= 0 and all(d in (1, s) for d, s in zip(x.shape, self.shape[lead:], strict=True))
        need(fits, f"{x} does not broadcast to {list(self.shape)}")
        return (x.with_shape(self.shape),)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        return (np.broadcast_to(operands[0], self.shape),)

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        return (grads[0],)


@register
class View(ShapeOp):
    """The operand's memory under other strides: left by the layout pass, costs nothing.

    The operand is contiguous, or laid out in another order of its axes without gaps.
    """

    name = "view"
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0
    differentiable = False
    samples = (({"shape": (2, 3), "strides": (6, 1), "offset": 3}, ("f32[2,6]",)),)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        y = TensorType.of(x.dtype, self.shape, self.strides)
        need(x.span == x.count, f"the base of a view must have no gaps, got {x}")
        first = self.offset - y.reach_back
        last = first + y.span - 1
        need(first >= 0 and last < x.count, f"the view reaches element {last if first >= 0 else first} of {x}")
        return (y,)

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        """Reads the operand's memory, which must be laid out as its type says."""
        (base,) = operands
        first = np.lib.stride_tricks.as_strided(base, (base.size,), (base.itemsize,))[self.offset :]
        steps = tuple(s * base.itemsize for s in self.strides)
        return (np.lib.stride_tricks.as_strided(first, self.shape, steps, writeable=False),)
