"""What a model can do so far: its loss on text that it does not learn from.  Nothing here changes the weights."""

from __future__ import annotations

from gptc.runtime.events import Evaluation
from gptc.runtime.interrupt import Interrupt
from gptc.runtime.loader import Loader
from gptc.runtime.model import Model
from gptc.runtime.run import Run
from gptc.runtime.step import require_finite, run_batch


def validate(run: Run) -> float:
    """Mean validation loss over all ranks, reported."""
    (loss,) = run.world.mean(evaluate(run.model, run.data.val, run.settings.eval_batches, run.interrupt))
    require_finite("validation loss", loss, run.progress.step)
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
