"""The training loop over a built artefact.

Reads: batches and settings.  Leaves: trained weights in the model, and in a file where asked.
Does not: print; everything worth knowing goes to `report` as it happens.

What decides how a run goes on is either in the model's tensors or in `Progress`; both are in every checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from gptc.errors import StorageError
from gptc.runtime.agreement import require_agreement
from gptc.runtime.data import Data
from gptc.runtime.detector import Detector
from gptc.runtime.evaluation import look, require_losses
from gptc.runtime.events import Event
from gptc.runtime.interrupt import Interrupt, Interrupted
from gptc.runtime.model import Model
from gptc.runtime.progress import Progress
from gptc.runtime.run import Run
from gptc.runtime.sampler import Sampler
from gptc.runtime.saver import Saver
from gptc.runtime.schedule import Schedule
from gptc.runtime.settings import TrainSettings, detector_of, schedule_of
from gptc.runtime.step import step
from gptc.runtime.weights import save_weights
from gptc.runtime.world import ALONE, World


@dataclass(frozen=True)
class Summary:
    """The whole run; `seconds` and `tokens` are of this process alone.

    `val_loss` is None for an artefact without the program `evaluate`, `loss` where no step was ever made.
    """

    steps: int
    loss: float | None
    val_loss: float | None
    seconds: float
    tokens: int


def train(
    model: Model,
    data: Data,
    settings: TrainSettings,
    report: Callable[[Event], None] = lambda event: None,
    *,
    saver: Saver | None = None,
    interrupt: Interrupt | None = None,
    progress: Progress | None = None,
    world: World = ALONE,
    sampler: Sampler | None = None,
) -> Summary:
    """Update the weights until `settings.steps` updates have been made, from where `progress` says that they are.

    Raises NumericsError at the first loss or norm that is not finite, and nothing is saved then; Interrupted when
    the run was asked to stop, with a checkpoint of its last complete step on the disk.
    """
    run = Run(model, data, settings, report, saver, interrupt or Interrupt(), progress or Progress(), world, sampler)
    _check(run)
    began, start = time.perf_counter(), run.progress.step
    try:
        val_loss = _train(run, schedule_of(model.artefact, settings), detector_of(model.artefact, settings))
    except Interrupted:
        run.save_last()
        raise
    if run.saver and run.saver.every:
        run.save_last()
    if run.settings.save and world.leads:
        save_weights(run.model, run.settings.save, run.settings.steps)
    tokens = (run.progress.step - start) * run.tokens_per_step
    return Summary(run.progress.step, run.progress.loss, val_loss, time.perf_counter() - began, tokens)


def _train(run: Run, schedule: Schedule, detector: Detector) -> float | None:
    """The steps that are left, and the validation loss after them (None without the program `evaluate`)."""
    progress = run.progress
    while progress.step < run.settings.steps:
        look(run)
        limits = detector.limits(progress.losses, progress.norms)
        run.report(step(run, schedule(progress.step), limits))
        if run.settings.check_ranks_every and progress.step % run.settings.check_ranks_every == 0:
            require_agreement(run.model, run.world, progress.step)
        if run.saver:
            run.saver.poll()
            if run.saver.due(progress.step):
                run.save()
        run.stop_together()
    return look(run, last=True)


def _check(run: Run) -> None:
    """What can be known to fail is told before the first step."""
    model, settings = run.model, run.settings
    if run.data.choices:
        require_losses(model)
    for name in ("step",) if model.artefact.manifest.micro_steps == 1 else ("micro_step", "update"):
        model.artefact.program(name)
    if settings.save and not (settings.save.parent.is_dir() and os.access(settings.save.parent, os.W_OK)):
        raise StorageError.of(f"{settings.save}: no such folder, or not writable", None, "create the folder first")
