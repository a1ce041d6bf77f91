"""Access analysis against brute force: every element of every operand is found where its strides say."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptc.codegen.loops import Access, broadcast_strides, collapse, index_strides, nest, table_accesses
from gptc.errors import InternalError
from gptc.ir.types import DType, TensorType, contiguous_strides


@st.composite
def spaces(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """A shape and the strides of some operands in it: dense, broadcast, permuted or apart."""
    space = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    dense = contiguous_strides(space)
    operands = [dense]
    for _ in range(draw(st.integers(0, 3))):
        kept = draw(st.lists(st.booleans(), min_size=len(space), max_size=len(space)))
        shape = [n if k else 1 for n, k in zip(space, kept, strict=True)]
        kind = TensorType.of(DType.f32, shape)
        if draw(st.booleans()):
            kind = TensorType.of(DType.f32, shape, [s * draw(st.integers(1, 3)) for s in kind.steps])
        operands.append(broadcast_strides(kind, space))
    operands.append(index_strides(space, -1))
    return space, operands


def offset(index: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum(i * s for i, s in zip(index, strides, strict=True))


def value(access: Access, numbers: dict[str, int]) -> int:
    """The offset that an access's C text stands for."""
    text = " + ".join(part for part in (access.outer, access.inner) if part) or "0"
    return int(eval(text.replace("/", "//"), {}, {**numbers, **dict(access.extents)}))


@settings(max_examples=300, deadline=None)
@given(spaces())
def test_nest(case: tuple[tuple[int, ...], list[tuple[int, ...]]]) -> None:
    space, operands = case
    loops = nest([f"x{i}" for i in range(len(operands))], space, operands)
    sizes = [n for _, n in loops.extents]
    assert math.prod(sizes) == math.prod(space)
    positions = itertools.product(*map(range, space))
    for at, (counters, position) in enumerate(zip(itertools.product(*map(range, sizes)), positions, strict=True)):
        numbers = dict(zip(loops.letters, counters, strict=True))
        numbers["at"] = at - counters[-1]
        for access, strides in zip(loops.accesses, operands, strict=True):
            assert value(access, numbers) == offset(position, strides)


@settings(max_examples=300, deadline=None)
@given(spaces(), st.data())
def test_table(case: tuple[tuple[int, ...], list[tuple[int, ...]]], data: st.DataObject) -> None:
    space, operands = case
    axes = data.draw(st.integers(0, len(space)))
    cols = math.prod(space[len(space) - axes :])
    accesses = table_accesses([f"x{i}" for i in range(len(operands))], space, operands, axes)
    for number, position in enumerate(itertools.product(*map(range, space))):
        i, j = divmod(number, cols)
        for access, strides in zip(accesses, operands, strict=True):
            assert value(access, {"i": i, "j": j, "at": i * cols, "cols": cols}) == offset(position, strides)


def test_dense_tensors_are_one_loop() -> None:
    dense = contiguous_strides((2, 3, 5))
    assert collapse((2, 3, 5), [dense, dense]) == ((30,), [(1,), (1,)])
    assert collapse((2, 3, 5), [dense, (0, 0, 1)]) == ((6, 5), [(5, 1), (0, 1)])
    assert collapse((1, 1), [(0, 0)]) == ((), [()])


def test_limits() -> None:
    crooked = [tuple(1000 * k + 1 for k in range(7))]
    with pytest.raises(InternalError, match="7 nested loops"):
        nest(["x"], (2,) * 7, crooked)
    with pytest.raises(InternalError, match="no axis -2"):
        index_strides((5,), -2)
