"""What a model can do so far: its loss on other text, the endings it chooses, what it writes.

Nothing here changes what training goes on from.
"""

from __future__ import annotations

import math

from gptc.errors import InputError
from gptc.runtime.choices import ChoiceLoader
from gptc.runtime.culprit import explained
from gptc.runtime.events import Evaluation, Sample, Score
from gptc.runtime.interrupt import Interrupt
from gptc.runtime.loader import Loader
from gptc.runtime.model import Model
from gptc.runtime.run import Run
from gptc.runtime.step import require_finite, run_batch


def look(run: Run, last: bool = False) -> float | None:
    """What is due before the next step, or after the `last` one all that is wanted; returns the validation loss.

    As llm.c does it: validation also before the first step, multiple choice and samples not.
    """
    settings, step = run.settings, run.progress.step

    def due(every: int) -> bool:
        return last or bool(every and step % every == 0)

    loss = validate(run) if run.model.artefact.has_program("evaluate") and due(settings.eval_every) else None
    if run.data.choices and step and due(settings.score_every):
        examine(run, run.data.choices)
    if run.sampler and step and due(settings.sample_every):
        with run.interrupt.breakable():
            run.report(Sample(step, run.sampler.write(run.model, step, run.world.turn)))
    return loss


def validate(run: Run) -> float:
    """Mean validation loss over all ranks, reported."""

    def losses() -> float:
        return evaluate(run.model, run.data.val, run.settings.eval_batches, run.interrupt)

    (loss,) = run.world.mean(losses())
    if not math.isfinite(loss):
        message = f"step {run.progress.step}: the validation loss is {loss}"
        raise explained(run.model, run.world, message, losses)
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
        total += run_batch(model, "evaluate", batch, {})
    return total / count


def examine(run: Run, choices: ChoiceLoader) -> None:
    """How many questions of all ranks are answered rightly, reported."""
    means = endings(run.model, choices, run.interrupt)
    require_finite("loss of multiple choice", sum(means), run.progress.step)
    (share,) = run.world.mean(choices.correct(means))
    correct = round(share * run.world.size)
    run.report(Score(run.progress.step, correct, choices.total, correct / choices.total))


def endings(model: Model, choices: ChoiceLoader, interrupt: Interrupt | None = None) -> list[float]:
    """The mean loss of every ending, as `ChoiceLoader.correct` takes them."""
    interrupt = interrupt or Interrupt()
    means: list[float] = []
    for index in range(choices.batches):
        with interrupt.breakable():
            batch = choices.batch(index)
        run_batch(model, "evaluate", (batch.inputs, batch.targets), {})
        means += batch.means(model["losses"][..., 0])
    return means


def require_losses(model: Model) -> None:
    """InputError where the model does not tell the loss at each position."""
    if "losses" not in model.artefact.program("evaluate").outputs:
        message = f"{model.artefact.manifest.model} does not tell the loss at each position, so it cannot choose"
        raise InputError.of(message, None, "that takes one cross_entropy, over all positions")
