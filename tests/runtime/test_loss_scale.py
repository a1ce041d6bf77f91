"""The loss scale of f16: PyTorch's rule, and a run that meets an overflow, goes on, and resumes."""

from __future__ import annotations

import pytest

from gptc.runtime.loss_scale import FIRST, INTERVAL, LEAST, MOST, LossScale


def test_it_halves_at_an_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale()
    assert (scale.value, INTERVAL) == (65536.0, 2000)
    for _ in range(INTERVAL - 1):
        scale.after(overflow=False)
    assert scale == LossScale(FIRST, INTERVAL - 1)
    scale.after(overflow=True)
    assert scale == LossScale(FIRST / 2, 0)
    for _ in range(INTERVAL):
        scale.after(overflow=False)
    assert scale == LossScale(FIRST, 0)


@pytest.mark.parametrize(("overflow", "end"), [(True, LEAST), (False, MOST)])
def test_it_stays_in_bounds(overflow: bool, end: float) -> None:
    scale = LossScale(steady=INTERVAL - 1)
    for _ in range(100):
        scale.after(overflow)
        scale.steady = INTERVAL - 1
    assert scale.value == end
