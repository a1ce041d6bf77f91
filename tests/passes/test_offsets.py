"""The planner as a pure function: plans are valid, never below the bound, and optimal where that can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptc.passes.offsets import Life, lower_bound, plan

lives = st.builds(
    lambda size, start, length: Life(size, start, start + length),
    st.integers(1, 9),
    st.integers(0, 8),
    st.integers(1, 6),
)


def meets(a: Life, b: Life) -> bool:
    return a.start < b.end and b.start < a.end


def total(all_lives: Sequence[Life], offsets: Sequence[int]) -> int:
    """The end of the last interval, after checking that the plan is valid."""
    for i, a in enumerate(all_lives):
        for j, b in enumerate(all_lives[:i]):
            apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
            assert apart or not meets(a, b), f"{a} at {offsets[i]} and {b} at {offsets[j]}"
    assert min(offsets, default=0) >= 0
    return max((o + i.size for o, i in zip(offsets, all_lives, strict=True)), default=0)


def optimum(all_lives: Sequence[Life]) -> int:
    """The smallest total: some order of placing each interval as low as it goes is optimal."""
    best = sum(i.size for i in all_lives)
    for order in permutations(range(len(all_lives))):
        offsets: dict[int, int] = {}
        for n in order:
            met = sorted(
                (offsets[m], offsets[m] + all_lives[m].size) for m in offsets if meets(all_lives[n], all_lives[m])
            )
            floor = 0
            for low, high in met:
                if low - floor >= all_lives[n].size:
                    break
                floor = max(floor, high)
            offsets[n] = floor
        best = min(best, total(all_lives, [offsets[n] for n in range(len(all_lives))]))
    return best


@given(st.lists(lives, max_size=60))
def test_plans_are_valid_and_not_below_the_bound(found: list[Life]) -> None:
    assert lower_bound(found) <= total(found, plan(found, align=1)) <= sum(i.size for i in found)


@given(st.lists(lives, max_size=20), st.sampled_from([1, 4, 64]))
def test_offsets_are_aligned(found: list[Life], align: int) -> None:
    offsets = plan(found, align)
    total(found, offsets)
    assert all(o % align == 0 for o in offsets)


@given(st.lists(lives, min_size=1, max_size=6))
def test_no_plan_beats_the_optimum_and_ours_is_near(found: list[Life]) -> None:
    """Greedy placement may miss the optimum, but on so few tensors by no more than the smallest that is in the way."""
    best = optimum(found)
    assert lower_bound(found) <= best <= total(found, plan(found, align=1)) < best + max(i.size for i in found)


@pytest.mark.parametrize("seed", range(20))
def test_nested_lives_reach_the_bound(seed: int) -> None:
    """Tensors saved in a forward pass and freed in the backward pass, last in, first out."""
    sizes = np.random.default_rng(seed).integers(1, 1000, 50)
    nested = [Life(int(s), n, 101 - n) for n, s in enumerate(sizes)]
    assert total(nested, plan(nested, align=1)) == lower_bound(nested) == sum(sizes)


def test_what_dies_gives_its_place_to_what_is_born() -> None:
    assert plan([Life(64, 0, 2), Life(64, 1, 3), Life(64, 2, 4)]) in ([0, 64, 0], [64, 0, 64])


def test_nothing_to_place() -> None:
    assert plan([]) == []
    assert lower_bound([]) == 0
