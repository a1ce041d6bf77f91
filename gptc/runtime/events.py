"""What happens in a run, as it is told to whoever watches: plain data, one class a kind of event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Began:
    """A process takes the run on after `step` updates.

    `settings` are rows of name, value and origin.  `flops_per_token` is what a token costs to learn from, `peak` the
    FLOP/s that all ranks together can do, as far as these are known.
    """

    step: int
    model: str
    settings: tuple[tuple[str, str, str], ...]
    flops_per_token: float | None
    peak: float | None


@dataclass(frozen=True)
class Step:
    """One update: the loss before it, the gradient's norm before clipping, and what it took."""

    step: int  # 1 for the first
    loss: float
    norm: float
    lr: float
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Skipped:
    """The update of this step, whose `Step` comes next, was not made: the weights are as they were before it.

    `batch` is the first that the step took of the training data, counted from the beginning of the run.
    """

    step: int
    batch: int
    loss: float
    norm: float
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """Mean validation loss after `step` updates."""

    step: int
    loss: float


@dataclass(frozen=True)
class Sample:
    """What the model writes after `step` updates."""

    step: int
    text: str


@dataclass(frozen=True)
class Score:
    """Multiple choice after `step` updates: questions answered rightly, of how many."""

    step: int
    correct: int
    total: int
    accuracy: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk.  `blocked` seconds training stood still for it, `seconds` it took to write."""

    step: int
    path: Path
    bytes: int
    blocked: float
    seconds: float


@dataclass(frozen=True)
class Trouble:
    """Something went wrong with checkpoints; `lost` when the one of `step` will not be there."""

    step: int
    message: str
    lost: bool


@dataclass(frozen=True)
class Ended:
    """All `step` updates are made.  `seconds` of this process alone, `peak_memory` the most bytes that it held."""

    step: int
    seconds: float
    peak_memory: int


Event = Began | Step | Skipped | Evaluation | Sample | Score | Saved | Trouble | Ended
