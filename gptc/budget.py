"""The least recomputation with which a training step fits a given memory: `--remat budget=SIZE`.

The planner itself is asked what each level takes, so the answer is the true peak and no estimate.  Levels are bisected:
their totals fall from one to the next but for the last few percent, and what is returned was seen to fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gptc.errors import InputError
from gptc.model import build_graph, load_model
from gptc.passes.remat import blocks

if TYPE_CHECKING:
    from gptc.compiler import Request

PREFIX = "budget="


def within_budget(request: Request, total: Callable[[Request], int]) -> Request:
    """A request whose `remat` is a budget in bytes with the level that it comes to; any other as it is.

    `total` plans a request and says how many bytes all its segments take together.
    """
    if not request.options.remat.startswith(PREFIX):
        return request
    budget = int(request.options.remat.removeprefix(PREFIX))
    levels = _levels(request)
    low, high = 0, len(levels) - 1
    if total(levels[high]) > budget:
        high = min(range(len(levels)), key=lambda i: total(levels[i]))
        least = total(levels[high])
        if least > budget:
            message = f"the least that {request.path} can be trained in is {least / 1e6:,.1f} MB, over the budget of"
            raise InputError.of(f"{message} {budget / 1e6:,.1f} MB", None, "a smaller --batch or --seq takes less")
    while low < high:
        middle = (low + high) // 2
        if total(levels[middle]) <= budget:
            high = middle
        else:
            low = middle + 1
    return levels[high]


def _levels(request: Request) -> list[Request]:
    """The request at every level, from no recomputation to the most."""
    model = load_model(request.path, request.overrides)
    count = len(blocks(build_graph(model, batch=1, seq=1)))
    names = ["none", "cheap", *(f"block:{n}" for n in range(1, count + 1))]
    return [replace(request, options=replace(request.options, remat=name)) for name in names]
