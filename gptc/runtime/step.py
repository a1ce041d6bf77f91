"""One update of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from gptc.errors import NumericsError
from gptc.runtime.culprit import RATE, explained
from gptc.runtime.detector import Limits
from gptc.runtime.events import Skipped, Step
from gptc.runtime.loader import Batch
from gptc.runtime.loss_scale import LOSS_SCALE, takes_loss_scale
from gptc.runtime.model import Model
from gptc.runtime.run import Run

NEVER = -1.0
"""The limit on the norm that makes an update be skipped whatever its norm is."""


def step(run: Run, lr: float, limits: Limits) -> Step:
    """One update over `micro_steps` batches.  Until the update itself, nothing that lasts has changed.

    The program skips it where the loss or the norm is above its limit.  Raises NumericsError where one is not finite;
    then it is skipped too.  A norm that is not finite only makes a loss scale smaller, where the model takes one.
    """
    began = time.perf_counter()
    progress = run.progress
    loss, norm = _compute(run, lr, limits)
    scaled = takes_loss_scale(run.model.artefact)
    overflow = scaled and math.isfinite(loss) and not math.isfinite(norm) and not progress.loss_scale.least
    for what, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value) and not overflow:
            message = f"step {progress.step + 1}: the {what} is {value}"
            raise explained(run.model, run.world, message, lambda: _compute(run, lr, limits))
    if float(run.model["clip_scale"]) == 0:
        reason = progress.loss_scale.reason if overflow else limits.reason(loss, norm)
        run.report(Skipped(progress.step + 1, progress.batches, loss, norm, reason))
        progress.skipped += 1
    if scaled:
        progress.loss_scale.after(overflow)
    if not overflow:
        progress.remember(loss, norm)
    micro_steps = run.model.artefact.manifest.micro_steps
    progress.step, progress.batches, progress.loss = progress.step + 1, progress.batches + micro_steps, loss
    seconds = time.perf_counter() - began
    return Step(progress.step, loss, norm, lr, seconds, run.tokens_per_step / seconds)


def _compute(run: Run, lr: float, limits: Limits) -> tuple[float, float]:
    """Run the programs of the step that comes; returns the loss over all its batches and ranks, and the norm."""
    model, progress = run.model, run.progress
    micro_steps = model.artefact.manifest.micro_steps
    scalars = {"lr": lr, "step": progress.step - progress.skipped + 1.0, "max_norm": _port(limits.norm)}
    scalars[LOSS_SCALE] = progress.loss_scale.value
    if micro_steps == 1:
        loss = run_batch(model, "step", _batch(run, 0), scalars | {"max_loss": _port(limits.loss)})
        (loss,) = run.world.mean(loss)
    else:
        loss = 0.0
        for micro in range(micro_steps):
            first = {"first": float(micro == 0), LOSS_SCALE: progress.loss_scale.value}
            loss += run_batch(model, "micro_step", _batch(run, micro), first) / micro_steps
        (loss,) = run.world.mean(loss)
        _run_program(model, "update", scalars if loss <= limits.loss else scalars | {"max_norm": NEVER})
    return loss, float(model["norm"])


def _port(limit: float) -> float:
    """A limit as programs take it: 0 is none."""
    return limit if math.isfinite(limit) else 0.0


def require_finite(what: str, value: float, step: int) -> None:
    """NumericsError where a number that decides is none."""
    if not math.isfinite(value):
        raise NumericsError.of(f"step {step}: the {what} is {value}", None, RATE)


def run_batch(model: Model, program: str, batch: Batch, scalars: Mapping[str, float]) -> float:
    """Run a program over a batch; returns the mean loss."""
    model["tokens"][...], model["targets"][...] = batch
    _run_program(model, program, scalars)
    return float(model["loss"])


def _batch(run: Run, micro: int) -> Batch:
    """Batch `micro` of the step that comes; a wish to stop is granted here."""
    first = 0 if run.settings.overfit_batch else run.progress.batches
    with run.interrupt.breakable():
        return run.data.train.batch(first + micro)


def _run_program(model: Model, program: str, scalars: Mapping[str, float]) -> None:
    """Run a program with those scalars that it takes: plain SGD, say, has no use for the step."""
    for name in model.artefact.program(program).inputs:
        if name in scalars:
            model[name][...] = scalars[name]
    model.run(program)
