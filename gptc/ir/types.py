"""Types of values: element type, dimensions that remember their names, and optional strides."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import ml_dtypes
import numpy as np

from gptc.contracts import DTYPES

Array = np.ndarray[Any, Any]


class DType(enum.Enum):
    """Element types.  The value is the name used in `.gir`, manifests and kernel names."""

    f64 = "f64"
    f32 = "f32"
    bf16 = "bf16"
    f16 = "f16"
    i32 = "i32"
    i8 = "i8"
    u8 = "u8"

    @property
    def numpy(self) -> np.dtype[Any]:
        return DTYPES[self.value]

    @property
    def size(self) -> int:
        """Bytes an element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self not in (DType.i32, DType.i8, DType.u8)

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number; 0 for integers."""
        return float(ml_dtypes.finfo(self.numpy).eps) if self.is_float else 0.0  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return self.value


_FROM_NUMPY = {dtype.numpy: dtype for dtype in DType}


class Dim(int):
    """A size that may carry the name it has in the model (`T=64`).  Compares as the integer it is."""

    name: str | None

    def __new__(cls, size: int, name: str | None = None) -> Self:
        dim = super().__new__(cls, size)
        dim.name = name if name is not None else getattr(size, "name", None)
        return dim

    def __str__(self) -> str:
        return f"{self.name}={int(self)}" if self.name else str(int(self))

    __repr__ = __str__


Shape = tuple[Dim, ...]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= int(size)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class TensorType:
    """Shape, element type and, for views, strides in elements (None: contiguous row-major)."""

    shape: Shape
    dtype: DType
    strides: tuple[int, ...] | None = None

    @classmethod
    def of(cls, dtype: DType, shape: Iterable[int], strides: Iterable[int] | None = None) -> TensorType:
        """Build a type; strides that say nothing new are dropped."""
        dims = tuple(d if isinstance(d, Dim) else Dim(d) for d in shape)
        steps = None if strides is None else tuple(int(s) for s in strides)
        if steps is not None and all(
            size == 1 or a == b for size, a, b in zip(dims, steps, contiguous_strides(dims), strict=True)
        ):
            steps = None
        return cls(dims, dtype, steps)

    @classmethod
    def of_array(cls, array: np.ndarray[Any, Any]) -> TensorType:
        """The contiguous type that holds `array`."""
        return cls.of(_FROM_NUMPY[array.dtype], array.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(int(d) for d in self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves (for a view: not the span it reaches over)."""
        return self.count * self.dtype.size

    @property
    def steps(self) -> tuple[int, ...]:
        """Strides in elements, also when contiguous."""
        return self.strides if self.strides is not None else contiguous_strides(self.shape)

    @property
    def span(self) -> int:
        """Elements of memory from the lowest to the highest."""
        return 1 + sum((int(d) - 1) * abs(s) for d, s in zip(self.shape, self.steps, strict=True)) if self.count else 0

    @property
    def reach_back(self) -> int:
        """Elements of memory in front of the first one, where negative strides lead."""
        return sum((int(d) - 1) * max(0, -s) for d, s in zip(self.shape, self.steps, strict=True))

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        """The contiguous type of the same dtype and another shape."""
        return TensorType.of(self.dtype, shape)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        """Kept, because every `need(.., message)` spells its types whether it holds or not."""
        text = f"{self.dtype.name}[{','.join(map(str, self.shape))}]"
        return text if self.strides is None else f"{text}{{{','.join(map(str, self.strides))}}}"


def broadcast(*shapes: Shape) -> Shape | None:
    """NumPy's rule, keeping names where any operand has one; None when the shapes do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in shapes if len(s) >= -axis]
        size = max(int(d) for d in dims)
        if any(int(d) not in (1, size) for d in dims):
            return None
        named = [d for d in dims if int(d) == size and d.name]
        out.append(named[0] if named else Dim(size))
    return tuple(out)
