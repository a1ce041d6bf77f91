"""The least recomputation with which a training step fits a given memory: `--remat budget=SIZE`.

The planner itself is asked what each level takes, so the answer is the true peak and no estimate.  Levels are bisected:
their totals fall from one to the next but for the last few percent, and what is returned was seen to fit.
"""

from __future__ import annotations

from collections.abc import Callable

from gptc.errors import InputError

PREFIX = "budget="


def least_that_fits(budget: int, blocks: int, total: Callable[[str], int]) -> str:
    """The level of a model with so many repeated blocks.  `total` says how many bytes a level takes, all segments
    together."""
    levels = ["none", "cheap", *(f"block:{n}" for n in range(1, blocks + 1))]
    low, high = 0, len(levels) - 1
    if total(levels[high]) > budget:
        high = min(range(len(levels)), key=lambda i: total(levels[i]))
        least = total(levels[high])
        if least > budget:
            message = f"a step takes at least {least / 1e6:,.1f} MB, over the budget of {budget / 1e6:,.1f} MB"
            raise InputError.of(message, None, "a smaller --batch or --seq takes less")
    while low < high:
        middle = (low + high) // 2
        if total(levels[middle]) <= budget:
            high = middle
        else:
            low = middle + 1
    return levels[high]
