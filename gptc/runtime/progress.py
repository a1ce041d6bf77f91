"""Where a run is: what decides, with the model's tensors, how it goes on.  All of it is in every checkpoint."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptc.errors import StorageError
from gptc.runtime.checkpoint import Checkpoint
from gptc.runtime.loader import Loader
from gptc.runtime.model import Model
from gptc.runtime.world import World


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
