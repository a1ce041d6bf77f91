"""Every sample of every op, and operands to run it on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gptc.ir.op import Op
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.loss import CrossEntropy, CrossEntropyGrad
from gptc.ir.text import parse_type
from gptc.ir.types import Array, DType, TensorType

OPS = sorted(REGISTRY)
Sample = tuple[Op, tuple[TensorType, ...]]
NORMS = ("global_norm", "norm_over_ranks")
POSITIVE = {("adamw", 3), ("clip_scale", 0), *((norm, i) for norm in NORMS for i in range(3))}
POSITIVE |= {("foreach", 6), ("foreach", 7)}
"""(op, operand) pairs that are sums of squares or their roots."""


def f32(*shape: int) -> TensorType:
    """A contiguous float32 type."""
    return TensorType.of(DType.f32, shape)


def samples_of(name: str) -> list[Sample]:
    cls = REGISTRY[name]
    return [(cls(**attributes), tuple(map(parse_type, types))) for attributes, types in cls.samples]


def every_sample() -> list[Any]:
    """Parameters for `pytest.mark.parametrize("op, types", ...)`."""
    return [
        pytest.param(op, types, id=f"{name}-{number}")
        for name in OPS
        for number, (op, types) in enumerate(samples_of(name))
    ]


def operands(op: Op, types: tuple[TensorType, ...], seed: int, wide: bool = False) -> list[Array]:
    """Arrays in the domain of `op`: float32, or float64 if `wide`; integers that its table or classes have."""
    rng = np.random.default_rng(seed)
    found = []
    for index, kind in enumerate(types):
        if not kind.dtype.is_float:
            classes = isinstance(op, (CrossEntropy, CrossEntropyGrad))
            bound = op.classes if classes else int(types[0].shape[0])  # type: ignore[attr-defined]
            low, bound = (-127, 128) if kind.dtype is DType.i8 else (0, bound)
            found.append(rng.integers(low, bound, kind.shape, kind.dtype.numpy))
            continue
        array = rng.standard_normal(kind.shape)
        if (op.name, index) in POSITIVE:
            array = np.abs(array)
        elif (op.name, index) == ("div", 1):
            array = np.copysign(0.5 + np.abs(array), array)
        elif op.name in ("adamw", "foreach") and index == len(types) - 2:  # the step
            array = np.asarray(3.0)
        found.append(array.astype(np.float64 if wide else kind.dtype.numpy))
    return found
