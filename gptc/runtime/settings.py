"""What a run is told: how long, how fast, how often to look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptc.errors import InputError
from gptc.runtime.artefact import Artefact
from gptc.runtime.detector import Detector
from gptc.runtime.manifest import TrainDefaults
from gptc.runtime.schedule import Schedule


@dataclass(frozen=True)
class TrainSettings:
    """What may change without a rebuild.  None takes the manifest's value.

    `eval_every` counts steps between evaluations (0: only after the last), each over `eval_batches` batches; so do
    `score_every` for multiple choice and `sample_every` for samples, where there are questions and a sampler.  With
    `overfit_batch` every step learns from the batches of the first.  Every `check_ranks_every` steps several ranks
    compare their weights.
    """

    steps: int
    lr: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    final_lr_frac: float | None = None
    step_size: int | None = None
    gamma: float | None = None
    skip_loss_outliers: float | None = None
    skip_norm_outliers: float | None = None
    outliers: str | None = None
    eval_every: int = 0
    eval_batches: int = 20
    score_every: int = 0
    sample_every: int = 0
    overfit_batch: bool = False
    check_ranks_every: int = 0
    save: Path | None = None

    def __post_init__(self) -> None:
        every = self.eval_every, self.score_every, self.sample_every, self.check_ranks_every
        if self.steps < 1 or self.eval_batches < 1 or min(every) < 0:
            raise InputError.of("need steps >= 1, eval_batches >= 1, and no number of steps between things below 0")


def schedule_of(artefact: Artefact, settings: TrainSettings) -> Schedule:
    """The learning rate of every step."""
    c = chosen(artefact, settings)
    return Schedule(c.schedule, c.lr, settings.steps, c.warmup, c.final_lr_frac, c.step_size, c.gamma)


def detector_of(artefact: Artefact, settings: TrainSettings) -> Detector:
    """What steps are skipped."""
    c = chosen(artefact, settings)
    return Detector(c.skip_loss_outliers, c.skip_norm_outliers, c.outliers)


def chosen(artefact: Artefact, settings: TrainSettings) -> TrainDefaults:
    """The settings over the manifest's defaults."""
    defaults = artefact.manifest.train
    if defaults is None:
        raise InputError.of(f"{artefact.folder.name} was compiled for inference", None, "compile it for training")
    fields = {name: getattr(settings, name) for name in type(defaults).model_fields}
    return defaults.model_copy(update={name: value for name, value in fields.items() if value is not None})
