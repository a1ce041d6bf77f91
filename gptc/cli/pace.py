"""How fast a run goes, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable

from gptc.runtime.events import Step

DECAY = 0.95
"""Of the average over steps: llm.c's."""


class Pace:
    """Smoothed over the steps of this process.  The first one pays for what is touched for the first time, so it does
    not count, unless there is no other yet."""

    def __init__(
        self, steps: int, flops_per_token: float | None, peak: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Of `steps` updates, each token of which takes so many operations; `peak` is in FLOP/s."""
        self._steps, self._clock = steps, clock
        self._utilisation = flops_per_token / peak if flops_per_token and peak else None
        self._sum, self._count = 0.0, 0
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)
        self.tokens_per_second = 0.0
        """An exponential moving average, its bias corrected as Adam corrects it (Kingma and Ba 2015, section 3)."""

    def add(self, event: Step) -> None:
        """Take a step into account, right after it."""
        self._last = event.step, self._clock()
        if self._first is None:
            self._first, self.tokens_per_second = self._last, event.tokens_per_second
            return
        self._count += 1
        self._sum = DECAY * self._sum + (1 - DECAY) * event.tokens_per_second
        self.tokens_per_second = self._sum / (1 - DECAY**self._count)

    @property
    def mfu(self) -> float | None:
        """Model FLOP utilisation (Chowdhery et al. 2022, appendix B); None where a side of it is unknown."""
        return None if self._utilisation is None else self._utilisation * self.tokens_per_second

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, evaluations and checkpoints included; None before the second step."""
        if self._first is None or self._last[0] == self._first[0]:
            return None
        (first, began), (last, now) = self._first, self._last
        return (self._steps - last) * (now - began) / (last - first)

    def words(self) -> list[str]:
        """`12,345 tok/s`, and where they are known `61.2% MFU` and `ETA 0:12:34`."""
        found = [f"{self.tokens_per_second:,.0f} tok/s"]
        if self.mfu is not None:
            found.append(f"{self.mfu:.1%} MFU")
        if self.seconds_left is not None:
            found.append(f"ETA {clock_time(self.seconds_left)}")
        return found


def clock_time(seconds: float) -> str:
    """1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
