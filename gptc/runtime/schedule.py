"""Learning-rate schedules: warmup, then one of five shapes.

Four are those of llm.c (`llmc/schedulers.h`); `step` is PyTorch's StepLR, which begins behind the warmup.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptc.errors import InputError, did_you_mean

SCHEDULES = ("constant", "cosine", "linear", "step", "wsd")
WSD_STABLE = 0.8  # share of the steps before `wsd` starts to decay


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step.

    `final_frac` times `lr` is reached at step `steps` by `cosine`, `linear` and `wsd`; `step` multiplies by `gamma`
    every `step_size` steps; `constant` has no warmup.
    """

    kind: str
    lr: float
    steps: int
    warmup: int = 0
    final_frac: float = 0.0
    step_size: int | None = None
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            hint = did_you_mean(self.kind, SCHEDULES) or f"one of {', '.join(SCHEDULES)}"
            raise InputError.of(f"unknown schedule {self.kind!r}", None, hint)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError.of(f"learning rate {self.lr} must be positive and finite")
        if self.steps < 1 or self.warmup < 0:
            raise InputError.of(f"{self.steps} steps with {self.warmup} of warmup: need steps >= 1, warmup >= 0")
        if not 0 <= self.final_frac <= 1:
            raise InputError.of(f"final learning rate fraction {self.final_frac} must be in 0..1")
        if self.kind == "step" and (self.step_size is None or self.step_size < 1 or not 0 < self.gamma <= 1):
            message = f"schedule step with step_size {self.step_size} and gamma {self.gamma}"
            raise InputError.of(f"{message}: need step_size >= 1, gamma in (0, 1]")

    def __call__(self, step: int) -> float:
        """The rate of the update that follows `step` earlier ones (the first step is 0)."""
        if self.kind == "constant":
            return self.lr
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.kind == "step":
            assert self.step_size is not None
            return self.lr * math.pow(self.gamma, (step - self.warmup) // self.step_size)
        low = self.lr * self.final_frac
        if self.kind == "wsd":
            return low + (1 - math.sqrt(self._progress(step, int(WSD_STABLE * self.steps)))) * (self.lr - low)
        progress = self._progress(step, self.warmup)
        if self.kind == "linear":
            return self.lr - progress * (self.lr - low)
        return low + 0.5 * (1 + math.cos(math.pi * progress)) * (self.lr - low)

    def _progress(self, step: int, start: int) -> float:
        """0 up to `start`, 1 from `steps` on, straight between."""
        return min(1.0, max(0.0, (step - start) / max(1, self.steps - start)))
