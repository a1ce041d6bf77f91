"""Iteration spaces: the fewest loops that walk several strided tensors at once, and how each is indexed in them.

An iteration space is a shape; an operand is one stride an axis, 0 where it broadcasts.  Neighbouring axes become
one loop where every operand steps through them evenly.  Extents and strides are arguments of the emitted
function; only whether a stride is 0, 1 or something else is part of its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptc.errors import InternalError
from gptc.ir.types import TensorType, contiguous_strides

Strides = tuple[int, ...]
Extents = tuple[tuple[str, int], ...]
"""Names and values of integer arguments."""


def broadcast_strides(kind: TensorType, space: Sequence[int]) -> Strides:
    """The strides of an operand over every axis of `space`, 0 where it repeats."""
    lead = len(space) - kind.rank
    own = tuple(0 if size == 1 else step for size, step in zip(kind.shape, kind.steps, strict=True))
    return (0,) * lead + own


def index_strides(space: Sequence[int], axis: int | None) -> Strides:
    """The position along `axis` (negative, from the end; None: along all of them) as if it were an operand."""
    if axis is None:
        return contiguous_strides(space)
    if len(space) < -axis:
        raise InternalError.of(f"the space {list(map(int, space))} has no axis {axis}")
    return tuple(int(i == len(space) + axis) for i in range(len(space)))


def collapse(space: Sequence[int], operands: Sequence[Strides]) -> tuple[tuple[int, ...], list[Strides]]:
    """Fewest loops, outermost first, and each operand's stride in them.  No loop at all if there is one element."""
    loops: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(map(int, space)):
        steps = [o[axis] for o in operands]
        if size == 1:
            continue
        if loops and all(outer == step * size for outer, step in zip(loops[-1][1], steps, strict=True)):
            loops[-1] = (loops[-1][0] * size, steps)
        else:
            loops.append((size, steps))
    return tuple(size for size, _ in loops), [tuple(steps[i] for _, steps in loops) for i in range(len(operands))]


@dataclass(frozen=True)
class Access:
    """Where an operand's element lies in a nest of loops: base[outer + inner].

    `outer` does not depend on the innermost loop, `inner` only on it; either is empty if it is always 0.
    """

    outer: str
    inner: str
    extents: Extents = ()
    """The arguments that the two mention, beside the extents of the loops."""


LETTERS = "ijklmp"
"""Loop variables of a nest, outermost first."""


@dataclass(frozen=True)
class Nest:
    """Loops over `extents`, outermost first, with the variables `letters`."""

    letters: str
    extents: Extents
    accesses: tuple[Access, ...]


def nest(names: Sequence[str], space: Sequence[int], operands: Sequence[Strides]) -> Nest:
    """The fewest loops over `space`, and each operand's access; `at + ` the last variable is where a dense one lies."""
    sizes, strides = collapse(space, operands)
    if not sizes:
        sizes, strides = (1,), [(0,)] * len(operands)
    if len(sizes) > len(LETTERS):
        raise InternalError.of(f"{len(sizes)} nested loops over {list(map(int, space))}")
    letters = LETTERS[: len(sizes)]
    extents = tuple((f"n{i}", n) for i, n in zip(letters, sizes, strict=True)) if len(sizes) > 1 else (("n", sizes[0]),)
    dense = contiguous_strides(sizes)
    accesses = [
        Access("at" if len(sizes) > 1 else "", letters[-1]) if steps == dense else _nest_access(name, letters, steps)
        for name, steps in zip(names, strides, strict=True)
    ]
    return Nest(letters, extents, tuple(accesses))


def _nest_access(name: str, letters: str, steps: Strides) -> Access:
    extents = tuple((f"{name}_s{i}", step) for i, step in zip(letters, steps, strict=True) if step not in (0, 1))
    terms = [
        "" if step == 0 else i if step == 1 else f"{i} * {name}_s{i}" for i, step in zip(letters, steps, strict=True)
    ]
    return Access(" + ".join(t for t in terms[:-1] if t), terms[-1], extents)


def table_accesses(names: Sequence[str], space: Sequence[int], operands: Sequence[Strides], axes: int) -> list[Access]:
    """Accesses over a table of rows i, the first axes of `space` as one, and columns j, its last `axes` as one.

    `at` is where the row of a dense one begins.
    """
    lead = len(space) - axes
    cols = 1
    for size in space[lead:]:
        cols *= int(size)
    rows_dense = contiguous_strides([*space[:lead], cols])[:-1]
    cols_dense = contiguous_strides(space[lead:])
    found = []
    for name, steps in zip(names, operands, strict=True):
        if _same(space, steps, (*rows_dense, *cols_dense)):
            found.append(Access("at" if lead else "", "j"))
            continue
        outer, outer_extents = _flat_index("i", f"{name}_i", space[:lead], steps[:lead], cols)
        inner, inner_extents = _flat_index("j", f"{name}_j", space[lead:], steps[lead:], None)
        found.append(Access(outer, inner, outer_extents + inner_extents))
    return found


def _same(space: Sequence[int], a: Strides, b: Strides) -> bool:
    return all(size == 1 or x == y for size, x, y in zip(space, a, b, strict=True))


def _flat_index(index: str, name: str, space: Sequence[int], steps: Strides, cols: int | None) -> tuple[str, Extents]:
    """The offset that the position `index` in the flattened `space` stands for, when axes step by `steps`.

    A loop over axes of sizes a, b, c with strides sa, 0, sc gives `index / (b c) * sa + index % c * sc`.
    """
    sizes, (strides,) = collapse(space, [steps])
    terms: list[str] = []
    extents: list[tuple[str, int]] = []
    spans = contiguous_strides(sizes)
    for i, (size, stride, span) in enumerate(zip(sizes, strides, spans, strict=True)):
        if stride == 0:
            continue
        suffix = str(len(terms)) if terms else ""
        text = index
        for operator, what, value in ((" / ", "span", span), (" % ", "period", size), (" * ", "step", stride)):
            if value == 1 or (what == "period" and i == 0):
                continue
            if what == "step" and value == cols:
                text += " * cols"
                continue
            argument = f"{name}_{what}{suffix}"
            text += operator + argument
            extents.append((argument, value))
        terms.append(text)
    return " + ".join(terms), tuple(extents)
