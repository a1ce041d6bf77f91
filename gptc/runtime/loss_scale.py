"""The factor that lifts gradients into the range of f16, found while training (Micikevicius et al. 2018, section 3.2).

Rule and numbers are those of PyTorch's `GradScaler`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptc.runtime.artefact import Artefact

LOSS_SCALE = "loss_scale"
"""The input of programs that takes it."""
FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**40
GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000
"""It grows after so many steps without an overflow, and shrinks at each one."""


def takes_loss_scale(artefact: Artefact) -> bool:
    return any(LOSS_SCALE in program.inputs for program in artefact.manifest.programs)


@dataclass
class LossScale:
    """The factor, and how many steps in a row have passed without an overflow.  A power of two: it rounds nothing."""

    value: float = FIRST
    steady: int = 0

    @property
    def least(self) -> bool:
        """Whether it cannot get smaller, and gradients that are not finite have another cause."""
        return self.value <= LEAST

    @property
    def reason(self) -> str:
        """Why an update was skipped."""
        return f"gradients times {self.value:g} are beyond f16"

    def after(self, overflow: bool) -> None:
        """Learn how a step has gone."""
        if overflow:
            self.value, self.steady = max(LEAST, self.value * BACKOFF), 0
        else:
            self.steady += 1
            if self.steady == INTERVAL:
                self.value, self.steady = min(MOST, self.value * GROWTH), 0
