"""Where elements lie: the arithmetic of strides, and the views and copies that `layout` makes from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops.elementwise import Copy
from gptc.ir.ops.shape import View
from gptc.ir.types import TensorType
from gptc.passes.manager import Context

MATRIX_AXES = 4
"""Most axes of a strided factor: two of the matrix, two to batch over."""


@dataclass(frozen=True)
class Strided:
    """Elements of `base`: index i along axis a is `strides[a] * i` elements further on, starting at `offset`."""

    base: Value
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, base: Value) -> Strided:
        """All of a value as it is laid out."""
        return cls(base, base.type.shape, base.type.steps)

    @property
    def type(self) -> TensorType:
        return TensorType.of(self.base.type.dtype, self.shape, self.strides)

    @property
    def is_base(self) -> bool:
        """Whether this is the base itself."""
        return self.offset == 0 and self.type == self.base.type

    def transpose(self, perm: Sequence[int]) -> Strided:
        return replace(self, shape=tuple(self.shape[p] for p in perm), strides=tuple(self.strides[p] for p in perm))

    def split(self, axis: int, lengths: Sequence[int]) -> tuple[Strided, ...]:
        """Pieces of the given lengths along `axis`."""
        axis %= len(self.shape)
        starts = accumulate(lengths, initial=0)
        return tuple(
            replace(
                self,
                shape=(*self.shape[:axis], length, *self.shape[axis + 1 :]),
                offset=self.offset + start * self.strides[axis],
            )
            for start, length in zip(starts, lengths, strict=False)
        )

    def flip(self, axis: int) -> Strided:
        """Along `axis` from the last to the first."""
        axis %= len(self.shape)
        step, last = self.strides[axis], int(self.shape[axis]) - 1
        strides = (*self.strides[:axis], -step, *self.strides[axis + 1 :])
        return replace(self, strides=strides, offset=self.offset + last * step)

    def reshape(self, shape: Sequence[int]) -> Strided | None:
        """The same elements in row-major order under another shape; None if no strides say that."""
        strides = _reshaped(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=tuple(shape), strides=strides)


def _reshaped(old: Sequence[int], steps: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of a reshaped view: every new axis must divide a run of old axes that are dense among themselves."""
    runs: list[tuple[int, int]] = []  # number of elements, step from one to the next; outermost first
    for size, step in zip(old, steps, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * step:
            runs[-1] = runs[-1][0] * size, step
        else:
            runs.append((size, step))
    strides: list[int] = []
    left, step = runs.pop() if runs else (1, 1)
    for size in reversed(new):
        if size > 1 and left == 1:
            left, step = runs.pop()
        if left % size:
            return None
        strides.append(step)
        left, step = left // size, step * size
    return tuple(reversed(strides))


def join(pieces: Sequence[Strided], axis: int) -> Strided | None:
    """The pieces side by side along `axis`, if that is how they lie in one base; None otherwise."""
    first = pieces[0]
    axis %= len(first.shape)
    end = first.offset
    for piece in pieces:
        if piece.base != first.base or piece.strides != first.strides or piece.offset != end:
            return None
        end += piece.shape[axis] * first.strides[axis]
    size = sum(p.shape[axis] for p in pieces)
    return replace(first, shape=(*first.shape[:axis], size, *first.shape[axis + 1 :]))


class Places:
    """The graph being rebuilt, and where the elements of those values lie that are no tensors of their own."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self._at: dict[str, Strided] = {}
        self._views: dict[Strided, Value] = {}
        self._copies: dict[Strided, Value] = {}

    def put(self, value: Value, place: Strided) -> None:
        """The elements of `value` lie at `place`."""
        self._at[value.name] = place

    def of(self, value: Value) -> Strided:
        """Where the elements of `value` lie."""
        return self._at.get(value.name) or Strided.whole(value)

    def strided(self, value: Value, reader: Node) -> Value:
        """`value` for a reader that takes any strides."""
        return self._view(self._at[value.name], value.name, reader) if value.name in self._at else value

    def rows(self, value: Value, reader: Node) -> Value:
        """`value` for a reader that takes strides as long as the elements of the last axis are neighbours."""
        kind = self.of(value).type
        fits = kind.rank <= MATRIX_AXES and kind.steps[-1] == 1 and min(kind.steps) >= 0
        return self.strided(value, reader) if fits else self.dense(value, reader)

    def is_turned(self, value: Value) -> bool:
        """Whether the elements of the last axis but one are neighbours, and those of the last are not."""
        kind = self.of(value).type
        return 2 <= kind.rank <= MATRIX_AXES and kind.steps[-2] == 1 != kind.steps[-1] and min(kind.steps) >= 0

    def turned(self, value: Value, reader: Node) -> Value:
        """`value` with its last two axes exchanged."""
        place = self.of(value)
        axes = range(len(place.shape))
        self.context.done("layout", reader, f"reads %{value.name} transposed", value.type.nbytes)
        return self._view(place.transpose((*axes[:-2], axes[-1], axes[-2])), f"{value.name}.turned", reader)

    def dense(self, value: Value, reader: Node) -> Value:
        """`value` for a reader that takes row-major order only: a copy if need be."""
        place = self.of(value)
        if place.type.strides is None:
            return self.strided(value, reader)
        if place not in self._copies:
            self.context.missed("layout", reader, f"%{value.name} is copied: it must be dense here", value.type.nbytes)
            operand, copy = self.strided(value, reader), Value(self.b.fresh(f"{value.name}.dense"), value.type)
            self._copies[place] = self._add(Copy(), operand, copy, reader)
        return self._copies[place]

    def _view(self, place: Strided, name: str, reader: Node) -> Value:
        """The value at `place`: the base itself, or one view of it for all readers."""
        if place.is_base:
            return place.base
        if place not in self._views:
            known = self.graph.producer.get(name)
            view = Value(name if known else self.b.fresh(name), place.type)
            op = View(place.shape, place.strides, place.offset)
            self._views[place] = self._add(op, place.base, view, known or reader)
        return self._views[place]

    def _add(self, op: Op, operand: Value, result: Value, like: Node) -> Value:
        self.b.add_node(Node(op, (operand,), (result,), like.span, like.origin))
        return result
