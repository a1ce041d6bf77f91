"""Regions: ops whose body is a list of scalar statements.  One kernel each, one template for all of a kind.

`map`     every element on its own
`row`     reductions along the last axis, with a prologue and an epilogue
`column`  sums over the leading axes: bias and weight gradients
`gemm`    a matrix product with an epilogue

Inside a region values are float32; rounding happens when a result of a narrower type is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptc.ir.body import REDUCTIONS, Body, body, evaluate
from gptc.ir.op import Op, Pairs, Types, iteration_space, need, need_count, register
from gptc.ir.ops.matmul import matmul_eval, matmul_type
from gptc.ir.types import Array, Dim, DType, Shape, TensorType

ITSELF = Body(("x",), (), ("x",))
"""The body that passes its input on."""


@dataclass(frozen=True)
class Region(Op):
    """Base: `body` and one dtype a result."""

    body: Body = ITSELF
    dtypes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """What was fused, for people: op names with their places in the model."""
    shape: tuple[int, ...] = ()
    """The iteration space where the operands alone do not reach it (a fill, a broadcast)."""
    differentiable = False

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        """Any result over any operand of its type: a kernel reads an element before it writes that element."""
        return tuple((i, j) for i in range(len(self.body.outputs)) for j in range(len(self.body.inputs)))

    def space(self, operands: Sequence[TensorType]) -> Shape:
        """The iteration space: what the operands broadcast to."""
        return iteration_space(operands, len(self.body.inputs), tuple(map(Dim, self.shape)))

    def stores(self, shapes: Sequence[Sequence[int]]) -> Types:
        """Result types of the given shapes in the declared dtypes."""
        need(len(shapes) == len(self.dtypes), f"has {len(shapes)} results and {len(self.dtypes)} dtypes")
        return tuple(TensorType.of(DType(d), s) for d, s in zip(self.dtypes, shapes, strict=True))

    def results_of(self, values: Sequence[Array], types: Types, wide: bool) -> tuple[Array, ...]:
        """Broadcast to the declared shapes and round to the declared dtypes (float64 stays)."""
        return tuple(
            np.broadcast_to(v, t.shape).astype(np.float64 if wide and t.dtype.is_float else t.dtype.numpy)
            for v, t in zip(values, types, strict=True)
        )

    def flops(self, *operands: TensorType) -> int:
        count = 1
        for d in self.space(operands):
            count *= int(d)
        return count * self.body.flops


def _types(operands: Sequence[Array]) -> tuple[tuple[TensorType, ...], bool]:
    """Operand types as arrays show them, and whether this is a float64 interpretation."""
    wide = any(a.dtype == np.float64 for a in operands)
    return tuple(TensorType.of(DType.f32, a.shape) for a in operands), wide


@register
class Map(Region):
    """Elementwise; every result has the shape of the iteration space."""

    name = "map"
    kernel = "map"
    samples = (
        ({"body": body("x b", "y", "y = gelu(x + b)"), "dtypes": ("f32",)}, ("f32[3,4,5]", "f32[5]")),
        ({"body": body("x", "y z", "y = x * x\nz = tanh(x)"), "dtypes": ("f32", "f32")}, ("f32[37]",)),
        ({"body": body("", "y", "y = copy(0)"), "dtypes": ("f32",), "shape": (2, 3)}, ()),
    )

    def infer(self, *operands: TensorType) -> Types:
        need(not self.body.has_reductions, "a map has no reductions")
        return self.stores([self.space(operands)] * len(self.body.outputs))

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        types, wide = _types(operands)
        space = self.space(types)
        return self.results_of(evaluate(self.body, operands, space), self.stores([space] * len(self.dtypes)), wide)


def element_names(body: Body, elementwise: Sequence[bool]) -> set[str]:
    """Names of a row body that vary along the row; the others are one number a row.

    `elementwise[i]` says whether input i varies along the row.
    """
    vary = {name for name, yes in zip(body.inputs, elementwise, strict=True) if yes}
    for stmt in body.stmts:
        if stmt.fn in ("col", "index") or (stmt.fn not in REDUCTIONS and any(a in vary for a in stmt.args)):
            vary.add(stmt.result)
    return vary


@register
class Row(Region):
    """Rows of the last axis: results have the full shape, or size 1 along the row where they are statistics; those at
    the indices `sums` are added up over all rows."""

    name = "row"
    kernel = "row"
    sums: tuple[int, ...] = ()
    samples = (
        (
            {"body": body("x r", "h m", "h = x + r\nm = row_mean(h * h)"), "dtypes": ("f32", "f32")},
            ("f32[2,3,20]", "f32[2,3,20]"),
        ),
        ({"body": body("x s", "y", "y = s * x / row_sum(exp(x))"), "dtypes": ("f32",)}, ("f32[5,7]", "f32[5,1]")),
    )

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        return tuple((i, j) for i, j in super().in_place if i not in self.sums)

    def infer(self, *operands: TensorType) -> Types:
        space = self.space(operands)
        need(len(space) >= 1, "a row region needs an axis")
        vary = element_names(self.body, [t.rank > 0 and t.shape[-1] == space[-1] for t in operands])
        stat = (*space[:-1], Dim(1))
        shapes = [space if name in vary else stat for name in self.body.outputs]
        return self.stores([space[-1:] if i in self.sums else shape for i, shape in enumerate(shapes)])

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        types, wide = _types(operands)
        space = self.space(types)
        axes = tuple(range(len(space) - 1))
        values = [
            np.broadcast_to(y, space).sum(axes) if i in self.sums else y
            for i, y in enumerate(evaluate(self.body, operands, space))
        ]
        return self.results_of(values, self.infer(*types), wide)


@register
class Column(Region):
    """The body at every element, summed over all but the last `keep` axes."""

    name = "column"
    kernel = "column"
    in_place = ()
    keep: int = 1
    samples = (
        ({"body": body("x y", "s t", "s = x * y\nt = copy(x)"), "dtypes": ("f32", "f32")}, ("f32[2,3,20]",) * 2),
        ({"body": ITSELF, "dtypes": ("f32",), "keep": 0}, ("f32[5,7]",)),
    )

    def infer(self, *operands: TensorType) -> Types:
        space = self.space(operands)
        need(0 <= self.keep <= len(space), f"cannot keep {self.keep} axes of {list(space)}")
        need(not self.body.has_reductions, "a column region reduces by itself")
        return self.stores([space[len(space) - self.keep :]] * len(self.body.outputs))

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        types, wide = _types(operands)
        space = self.space(types)
        axes = tuple(range(len(space) - self.keep))
        values = evaluate(self.body, operands, space)
        sums = [np.broadcast_to(v, space).sum(axes) for v in values]
        return self.results_of(sums, self.infer(*types), wide)


@register
class Gemm(Region):
    """op(a) op(b) as `matmul`, then the body at every element of the product.

    Operands: a, b, then the body's inputs after the first, which is the accumulated product.
    """

    name = "gemm"
    kernel = "matmul"
    trans_a: bool = False
    trans_b: bool = False
    samples = (
        (
            {"body": body("acc b r", "y", "y = r + (acc + b)"), "dtypes": ("f32",), "trans_b": True},
            ("f32[2,3,4]", "f32[5,4]", "f32[5]", "f32[2,3,5]"),
        ),
        (
            {"body": body("acc", "h y", "h = 2 * acc\ny = gelu(h)"), "dtypes": ("f32", "f32"), "trans_a": True},
            ("f32[20,9]", "f32[20,17]"),
        ),
        (
            {"body": body("acc s", "y", "y = acc * s"), "dtypes": ("f32",), "trans_b": True},
            ("f32[2,1,7]", "i8[5,7]", "f32[5]"),
        ),
    )

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        """Any result over any operand of the epilogue: the matrices are read until the product is done."""
        epilogue = range(2, len(self.body.inputs) + 1)
        return tuple((i, j) for i in range(len(self.body.outputs)) for j in epilogue)

    def product(self, operands: Sequence[TensorType]) -> TensorType:
        need_count(operands, len(self.body.inputs) + 1)
        return matmul_type(operands[0], operands[1], self.trans_a, self.trans_b)

    def infer(self, *operands: TensorType) -> Types:
        product = self.product(operands)
        space = self.space((product, *operands[2:]))
        need(space == product.shape, f"the epilogue changes the shape of the product {product}")
        return self.stores([space] * len(self.body.outputs))

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        types, wide = _types(operands)
        acc = matmul_eval(operands[0], operands[1], self.trans_a, self.trans_b)
        return self.results_of(evaluate(self.body, (acc, *operands[2:]), acc.shape), self.infer(*types), wide)

    def flops(self, *operands: TensorType) -> int:
        product = self.product(operands)
        inner = operands[0].shape[-2 if self.trans_a else -1]
        return product.count * (2 * inner + self.body.flops)
