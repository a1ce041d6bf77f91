"""One training run: all that its steps, evaluations and checkpoints share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gptc.errors import StorageError
from gptc.runtime.data import Data
from gptc.runtime.events import Event
from gptc.runtime.interrupt import Interrupt
from gptc.runtime.model import Model
from gptc.runtime.progress import Progress
from gptc.runtime.sampler import Sampler
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.world import World


@dataclass(frozen=True)
class Run:
    """`progress` moves on; all else stays."""

    model: Model
    data: Data
    settings: TrainSettings
    report: Callable[[Event], None]
    saver: Saver | None
    interrupt: Interrupt
    progress: Progress
    world: World
    sampler: Sampler | None = None
    """Of the first rank alone, where samples are wanted."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one update, those of all ranks together."""
        manifest = self.model.artefact.manifest
        return manifest.dims["B"] * manifest.dims["T"] * manifest.micro_steps * self.world.size

    def stop_together(self) -> None:
        """Between two steps: a wish to stop that one rank knows of is granted by all."""
        if self.world.size > 1 and self.world.any(self.interrupt.wished):
            raise self.interrupt.wish()

    def save(self) -> None:
        """Begin a checkpoint of where the run is now."""
        if self.saver:
            self.saver.save(self.progress.step, self.progress.state(self.data.train))

    def save_last(self) -> None:
        """See to it that the last complete step is on the disk."""
        if self.saver is None:
            return
        step = self.progress.step
        if step and self.saver.latest != step:
            self.save()
        self.saver.finish()
        if self.saver.failed:
            message = f"step {step} is not on the disk: its checkpoint could not be written"
            raise StorageError.of(message, None, "free some space, then go on from the one before with --resume auto")
