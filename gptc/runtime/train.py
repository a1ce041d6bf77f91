"""The training loop over a built artefact.

Reads: batches and settings.  Leaves: trained weights in the model, and in a file where asked.
Does not: print; everything worth knowing goes to `report` as it happens.

What decides how a run goes on is either in the model's tensors or in `Progress`; both are in every checkpoint.
"""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptc.errors import InputError, NumericsError, StorageError
from gptc.runtime.checkpoint import Checkpoint
from gptc.runtime.data import Data
from gptc.runtime.interrupt import Interrupt, Interrupted
from gptc.runtime.loader import Batch, Loader
from gptc.runtime.model import Model
from gptc.runtime.saver import Saved, Saver, Trouble
from gptc.runtime.schedule import Schedule
from gptc.runtime.weights import save_weights
from gptc.runtime.world import ALONE, World


@dataclass(frozen=True)
class TrainSettings:
    """What may change without a rebuild.  None takes the manifest's value.

    `eval_every` counts steps between evaluations (0: only after the last), each over `eval_batches` batches.
    """

    steps: int
    lr: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    final_lr_frac: float | None = None
    eval_every: int = 0
    eval_batches: int = 20
    save: Path | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eval_every < 0 or self.eval_batches < 1:
            raise InputError.of("need steps >= 1, eval_every >= 0 and eval_batches >= 1")


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
class Evaluation:
    """Mean validation loss after `step` updates."""

    step: int
    loss: float


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


Event = Step | Evaluation | Saved | Trouble


@dataclass
class Progress:
    """All that a run remembers beside the model's tensors: what decides, with these, how it goes on.

    `step` updates made, `batches` taken from the training loader, `loss` before the last update.
    """

    step: int = 0
    batches: int = 0
    loss: float | None = None

    @staticmethod
    def shared(world: World, first: Progress | None = None) -> Progress:
        """The progress of the first rank, which alone gives it."""
        own = first or Progress()
        numbers = np.array([own.step, own.batches, math.nan if own.loss is None else own.loss])
        world.broadcast([numbers])
        step, batches, loss = numbers.tolist()
        return Progress(int(step), int(batches), None if math.isnan(loss) else loss)

    def state(self, loader: Loader) -> dict[str, Any]:
        """Plain data for JSON, from which `restore` makes an equal one."""
        return {"step": self.step, "loss": self.loss, "loader": loader.state(self.batches)}


def restore(checkpoint: Checkpoint, model: Model, loader: Loader, other_data: bool = False) -> Progress:
    """Bring the model to where the checkpoint was taken; returns the run's progress there.

    With `other_data` training goes on from the beginning of the loader's.
    """
    checkpoint.load(model)
    try:
        state = checkpoint.manifest.progress
        batches = 0 if other_data else loader.resume(state["loader"])
        return Progress(operator.index(state["step"]), batches, state["loss"] and float(state["loss"]))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{checkpoint.folder}: cannot go on from the progress that it describes: {error!r}"
        raise StorageError.of(message, None, "was it made by another version of gptc?") from None


@dataclass(frozen=True)
class Run:
    """One training run: all that its steps share.  `progress` moves on."""

    model: Model
    data: Data
    settings: TrainSettings
    report: Callable[[Event], None]
    saver: Saver | None
    interrupt: Interrupt
    progress: Progress
    world: World

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one update, those of all ranks together."""
        return tokens_per_step(self.model) * self.world.size

    def stop_together(self) -> None:
        """Between two steps: a wish to stop that one rank knows of is granted by all."""
        if self.world.size > 1 and self.world.any(self.interrupt.wished):
            raise self.interrupt.wish()

    def save(self) -> None:
        """Begin a checkpoint of where the run is now."""
        if self.saver:
            self.saver.save(self.progress.step, self.progress.state(self.data.train))


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
) -> Summary:
    """Update the weights until `settings.steps` updates have been made, from where `progress` says that they are.

    Raises NumericsError at the first loss or norm that is not finite, and nothing is saved then; Interrupted when
    the run was asked to stop, with a checkpoint of its last complete step on the disk.
    """
    run = Run(model, data, settings, report, saver, interrupt or Interrupt(), progress or Progress(), world)
    _check(run.model, run.settings)
    began, start = time.perf_counter(), run.progress.step
    try:
        val_loss = _train(run, schedule_of(run.model, run.settings))
    except Interrupted:
        _save_last(run)
        raise
    if run.saver and run.saver.every:
        _save_last(run)
    if run.settings.save and world.leads:
        save_weights(run.model, run.settings.save, run.settings.steps)
    tokens = (run.progress.step - start) * run.tokens_per_step
    return Summary(run.progress.step, run.progress.loss, val_loss, time.perf_counter() - began, tokens)


def _train(run: Run, schedule: Schedule) -> float | None:
    """The steps that are left, and the validation loss after them (None without the program `evaluate`)."""
    progress, settings = run.progress, run.settings
    evaluates = run.model.artefact.has_program("evaluate")
    while progress.step < settings.steps:
        if evaluates and settings.eval_every and progress.step % settings.eval_every == 0:
            _evaluate(run)
        event = _step(run, schedule(progress.step))
        run.report(event)
        if run.saver:
            run.saver.poll()
            if run.saver.due(progress.step):
                run.save()
        run.stop_together()
    return _evaluate(run) if evaluates else None


def _save_last(run: Run) -> None:
    """See to it that the last complete step is on the disk."""
    if run.saver is None:
        return
    if run.progress.step and run.saver.latest != run.progress.step:
        run.save()
    run.saver.finish()
    if run.saver.failed:
        message = f"step {run.progress.step} is not on the disk: its checkpoint could not be written"
        raise StorageError.of(message, None, "free some space, then go on from the one before with --resume auto")


def _evaluate(run: Run) -> float:
    (loss,) = run.world.mean(evaluate(run.model, run.data.val, run.settings.eval_batches, run.interrupt))
    _require_finite("validation loss", loss, run.progress.step)
    run.report(Evaluation(run.progress.step, loss))
    return loss


def evaluate(model: Model, loader: Loader, batches: int, interrupt: Interrupt | None = None) -> float:
    """Mean loss over the first `batches` batches of the loader, always the same ones; weights stay as they are."""
    interrupt = interrupt or Interrupt()
    count = min(batches, loader.samples)
    total = 0.0
    for index in range(count):
        with interrupt.breakable():
            batch = loader.batch(index)
        total += _run_batch(model, "evaluate", batch, {})
    return total / count


def schedule_of(model: Model, settings: TrainSettings) -> Schedule:
    """The settings over the manifest's defaults."""
    defaults = model.artefact.manifest.train
    if defaults is None:
        raise InputError.of(f"{model.artefact.folder.name} was compiled for inference", None, "compile it for training")
    fields = {name: getattr(settings, name) for name in ("lr", "schedule", "warmup", "final_lr_frac")}
    chosen = defaults.model_copy(update={name: value for name, value in fields.items() if value is not None})
    return Schedule(chosen.schedule, chosen.lr, settings.steps, chosen.warmup, chosen.final_lr_frac)


def tokens_per_step(model: Model) -> int:
    manifest = model.artefact.manifest
    return manifest.dims["B"] * manifest.dims["T"] * manifest.micro_steps


def _step(run: Run, lr: float) -> Step:
    """One update over `micro_steps` batches.  Until the update itself, nothing that lasts has changed."""
    began = time.perf_counter()
    model, progress = run.model, run.progress
    micro_steps = model.artefact.manifest.micro_steps
    scalars = {"lr": lr, "step": progress.step + 1.0}
    if micro_steps == 1:
        loss = _run_batch(model, "step", _batch(run, 0), scalars)
    else:
        loss = 0.0
        for micro in range(micro_steps):
            loss += _run_batch(model, "micro_step", _batch(run, micro), {"first": float(micro == 0)}) / micro_steps
        _run(model, "update", scalars)
    (loss,), norm = run.world.mean(loss), float(model["norm"])
    _require_finite("loss", loss, progress.step + 1)
    _require_finite("gradient norm", norm, progress.step + 1)
    progress.step, progress.batches, progress.loss = progress.step + 1, progress.batches + micro_steps, loss
    seconds = time.perf_counter() - began
    return Step(progress.step, loss, norm, lr, seconds, run.tokens_per_step / seconds)


def _batch(run: Run, micro: int) -> Batch:
    """Batch `micro` of the step that comes; a wish to stop is granted here."""
    with run.interrupt.breakable():
        return run.data.train.batch(run.progress.batches + micro)


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        hint = "lower the learning rate, or lengthen the warmup"
        raise NumericsError.of(f"step {step}: the {what} is {value}", None, hint)


def _run_batch(model: Model, program: str, batch: Batch, scalars: Mapping[str, float]) -> float:
    model["tokens"][...], model["targets"][...] = batch
    _run(model, program, scalars)
    return float(model["loss"])


def _run(model: Model, program: str, scalars: Mapping[str, float]) -> None:
    """Run a program with those scalars that it takes: plain SGD, say, has no use for the step."""
    for name in model.artefact.program(program).inputs:
        if name in scalars:
            model[name][...] = scalars[name]
    model.run(program)


def _check(model: Model, settings: TrainSettings) -> None:
    """What can be known to fail is told before the first step."""
    for name in ("step",) if model.artefact.manifest.micro_steps == 1 else ("micro_step", "update"):
        model.artefact.program(name)
    if settings.save and not (settings.save.parent.is_dir() and os.access(settings.save.parent, os.W_OK)):
        raise StorageError.of(f"{settings.save}: no such folder, or not writable", None, "create the folder first")
