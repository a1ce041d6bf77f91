"""Where a run is: what decides, with the model's tensors, how it goes on.  All of it is in every checkpoint."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gptc.errors import StorageError
from gptc.runtime.checkpoint import Checkpoint
from gptc.runtime.detector import WINDOW
from gptc.runtime.loader import Loader
from gptc.runtime.loss_scale import FIRST, LossScale
from gptc.runtime.model import Model
from gptc.runtime.world import World


@dataclass
class Progress:
    """All that a run remembers beside the model's tensors: what decides, with these, how it goes on.

    `step` steps made, of which `skipped` left the weights as they were; `batches` taken from the training loader;
    `loss` before the last update; `losses` and `norms` of the last steps, with which the next one is compared; the
    `loss_scale` of f16.
    """

    step: int = 0
    batches: int = 0
    loss: float | None = None
    skipped: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    loss_scale: LossScale = field(default_factory=LossScale)

    @staticmethod
    def shared(world: World, first: Progress | None = None) -> Progress:
        """The progress of the first rank, which alone gives it."""
        own = first or Progress()
        counts = np.array([own.step, own.batches, own.skipped, len(own.losses), len(own.norms)])
        world.broadcast([counts])
        step, batches, skipped, losses, norms = map(int, counts)
        scale = own.loss_scale.value, own.loss_scale.steady
        floats = np.array([math.nan if own.loss is None else own.loss, *scale, *own.losses, *own.norms])
        floats = np.resize(floats, 3 + losses + norms)
        world.broadcast([floats])
        loss, value, steady, *window = floats.tolist()
        last, loss_scale = None if math.isnan(loss) else loss, LossScale(value, int(steady))
        return Progress(step, batches, last, skipped, window[:losses], window[losses:], loss_scale)

    def remember(self, loss: float, norm: float) -> None:
        """What outliers are compared with from now on."""
        for window, value in ((self.losses, loss), (self.norms, norm)):
            window.append(value)
            del window[:-WINDOW]

    def state(self, loader: Loader) -> dict[str, Any]:
        """Plain data for JSON, from which `restore` makes an equal one."""
        window = {"losses": list(self.losses), "norms": list(self.norms), "loss_scale": asdict(self.loss_scale)}
        own = {"step": self.step, "loss": self.loss, "skipped": self.skipped, **window}
        return own | {"loader": loader.state(self.batches)}


def restore(checkpoint: Checkpoint, model: Model, loader: Loader, other_data: bool = False) -> Progress:
    """Bring the model to where the checkpoint was taken; returns the run's progress there.

    With `other_data` training goes on from the beginning of the loader's.
    """
    checkpoint.load(model)
    try:
        state = checkpoint.manifest.progress
        batches = 0 if other_data else loader.resume(state["loader"])
        step, skipped = operator.index(state["step"]), operator.index(state.get("skipped", 0))
        losses, norms = ([float(x) for x in state.get(name, ())][-WINDOW:] for name in ("losses", "norms"))
        scale = state.get("loss_scale", {})
        loss_scale = LossScale(float(scale.get("value", FIRST)), operator.index(scale.get("steady", 0)))
        loss = state["loss"] and float(state["loss"])
        return Progress(step, batches, loss, skipped, losses, norms, loss_scale)
    except (KeyError, TypeError, ValueError) as error:
        message = f"{checkpoint.folder}: cannot go on from the progress that it describes: {error!r}"
        raise StorageError.of(message, None, "was it made by another version of gptc?") from None
