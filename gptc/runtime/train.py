"""The training loop over a built artefact.

Reads: batches and settings.  Leaves: trained weights in the model, and in a file where asked.
Does not: print; everything worth knowing goes to `report` as it happens.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import InputError, NumericsError, StorageError
from gptc.runtime.data import Data
from gptc.runtime.loader import Batch, Loader
from gptc.runtime.model import Model
from gptc.runtime.schedule import Schedule
from gptc.runtime.weights import save_weights


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
    """The whole run.  `val_loss` is None for an artefact without the program `evaluate`."""

    steps: int
    loss: float
    val_loss: float | None
    seconds: float
    tokens: int


Event = Step | Evaluation


def train(
    model: Model, data: Data, settings: TrainSettings, report: Callable[[Event], None] = lambda event: None
) -> Summary:
    """Run `settings.steps` updates from the model's present weights.

    Raises NumericsError at the first loss or norm that is not finite; then nothing is saved.
    """
    schedule = schedule_of(model, settings)
    _check(model, settings)
    evaluates = model.artefact.has_program("evaluate")
    began, loss, val_loss = time.perf_counter(), math.nan, None
    for step in range(settings.steps):
        if evaluates and settings.eval_every and step % settings.eval_every == 0:
            report(_evaluation(model, data, settings, step))
        event = _step(model, data.train, step, schedule(step))
        loss = event.loss
        report(event)
    if evaluates:
        last = _evaluation(model, data, settings, settings.steps)
        val_loss = last.loss
        report(last)
    if settings.save:
        save_weights(model, settings.save, settings.steps)
    return Summary(settings.steps, loss, val_loss, time.perf_counter() - began, settings.steps * tokens_per_step(model))


def _evaluation(model: Model, data: Data, settings: TrainSettings, step: int) -> Evaluation:
    loss = evaluate(model, data.val, settings.eval_batches)
    _require_finite("validation loss", loss, step)
    return Evaluation(step, loss)


def evaluate(model: Model, loader: Loader, batches: int) -> float:
    """Mean loss over the first `batches` batches of the loader, always the same ones; weights stay as they are."""
    count = min(batches, loader.samples)
    total = 0.0
    for index in range(count):
        total += _run_batch(model, "evaluate", loader.batch(index), {})
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


def _step(model: Model, loader: Loader, step: int, lr: float) -> Step:
    """One update over `micro_steps` batches."""
    began = time.perf_counter()
    micro_steps = model.artefact.manifest.micro_steps
    scalars = {"lr": lr, "step": step + 1.0}
    if micro_steps == 1:
        loss = _run_batch(model, "step", loader.batch(step), scalars)
    else:
        loss = 0.0
        for micro in range(micro_steps):
            batch = loader.batch(step * micro_steps + micro)
            loss += _run_batch(model, "micro_step", batch, {"first": float(micro == 0)}) / micro_steps
        _run(model, "update", scalars)
    norm = float(model["norm"])
    _require_finite("loss", loss, step + 1)
    _require_finite("gradient norm", norm, step + 1)
    seconds = time.perf_counter() - began
    return Step(step + 1, loss, norm, lr, seconds, tokens_per_step(model) / seconds)


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
