"""Strides against NumPy's own."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptc.ir.graph import Value
from gptc.passes.strided import Strided, join
from tests.ir.samples import f32

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4).map(tuple)


def array_at(place: Strided) -> np.ndarray:
    """The elements that `place` names, when the base holds 0, 1, 2, ..."""
    base = np.arange(place.base.type.count)
    steps = [s * base.itemsize for s in place.strides]
    return np.lib.stride_tricks.as_strided(base[place.offset :], tuple(map(int, place.shape)), steps)


@st.composite
def turned(draw: st.DrawFn) -> tuple[Strided, np.ndarray]:
    """A transposed piece of a tensor, as `Strided` and by NumPy."""
    shape = draw(SHAPES)
    place = Strided.whole(Value("x", f32(*shape)))
    array = np.arange(math.prod(shape)).reshape(shape)
    perm = draw(st.permutations(range(len(shape))))
    place, array = place.transpose(perm), array.transpose(perm)
    axis = draw(st.integers(0, len(shape) - 1))
    first = draw(st.integers(1, array.shape[axis]))
    lengths = [n for n in (first, array.shape[axis] - first) if n]
    which = draw(st.integers(0, len(lengths) - 1))
    return place.split(axis, lengths)[which], np.split(array, np.cumsum(lengths)[:-1], axis)[which]


@given(turned())
def test_transposes_and_splits(case: tuple[Strided, np.ndarray]) -> None:
    place, array = case
    np.testing.assert_array_equal(array_at(place), array)


@given(turned(), st.data())
def test_reshapes_need_a_copy_exactly_when_numpy_does(case: tuple[Strided, np.ndarray], data: st.DataObject) -> None:
    place, array = case
    rest, shape = array.size, []
    while rest > 1 or data.draw(st.booleans()):
        shape.append(data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
        if len(shape) > 5:
            shape.append(rest)
            break
    found = place.reshape(shape)
    assert (found is not None) == np.shares_memory(array.reshape(shape), array)
    if found is not None:
        np.testing.assert_array_equal(array_at(found), array.reshape(shape))


@given(turned(), st.data())
def test_pieces_side_by_side_are_joined(case: tuple[Strided, np.ndarray], data: st.DataObject) -> None:
    place, _ = case
    axis = data.draw(st.integers(-len(place.shape), len(place.shape) - 1))
    size = int(place.shape[axis])
    cut = data.draw(st.integers(1, size))
    pieces = place.split(axis, [n for n in (cut, size - cut) if n])
    assert join(pieces, axis) == place
    if len(pieces) == 2 and place.strides[axis]:
        assert join(pieces[::-1], axis) is None
