"""The loss scale of f16: PyTorch's rule, and a run that meets an overflow, goes on, and resumes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from gptc.errors import NumericsError
from gptc.runtime.artefact import Artefact
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Skipped
from gptc.runtime.loader import Loader
from gptc.runtime.loss_scale import FIRST, INTERVAL, LEAST, LOSS_SCALE, MOST, LossScale
from gptc.runtime.model import Model
from gptc.runtime.progress import Progress
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train


def test_it_halves_at_an_overflow_and_doubles_after_many_good_steps() -> None:
    scale = LossScale()
    assert (scale.value, INTERVAL) == (65536.0, 2000)
    for _ in range(INTERVAL - 1):
        scale.after(overflow=False)
    assert scale == LossScale(FIRST, INTERVAL - 1)
    scale.after(overflow=True)
    assert scale == LossScale(FIRST / 2, 0)
    for _ in range(INTERVAL):
        scale.after(overflow=False)
    assert scale == LossScale(FIRST, 0)


@pytest.mark.parametrize(("overflow", "end"), [(True, LEAST), (False, MOST)])
def test_it_stays_in_bounds(overflow: bool, end: float) -> None:
    scale = LossScale(steady=INTERVAL - 1)
    for _ in range(100):
        scale.after(overflow)
        scale.steady = INTERVAL - 1
    assert scale.value == end
    assert scale.least == overflow


class Narrow:
    """The toy as if its gradients were f16: what `limit` times the loss scale allows is finite."""

    def __init__(self, model: CpuModel, limit: float) -> None:
        programs = tuple(
            p.model_copy(update={"inputs": (*p.inputs, LOSS_SCALE)}) if p.name == "step" else p
            for p in model.artefact.manifest.programs
        )
        manifest = model.artefact.manifest.model_copy(update={"programs": programs})
        self.artefact = Artefact(model.artefact.folder, manifest)
        self.model, self.limit, self.scale = model, limit, np.zeros((), np.float32)

    def __getitem__(self, name: str) -> Any:
        return self.scale if name == LOSS_SCALE else self.model[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run(self, program: str) -> None:
        before = self.model.segment("params").copy()
        self.model.run(program)
        if program == "step" and not self.scale <= self.limit:
            self.model.segment("params")[...] = before
            self.model["norm"][...], self.model["clip_scale"][...] = np.inf, 0.0


@pytest.fixture
def data() -> Data:
    tokens = (np.arange(2000) * 7 % 50).astype(np.uint16)
    loader = Loader([Memory(tokens)], 2, 8, 256)
    return Data("numbers", loader, loader)


def test_overflows_are_skipped_until_the_scale_fits(model: CpuModel, data: Data) -> None:
    """A step whose gradients overflow changes no weight, is told and halves the scale, which is in the checkpoint."""
    events: list[Event] = []
    progress = Progress()
    narrow = cast(Model, Narrow(model, limit=10_000.0))
    train(narrow, data, TrainSettings(8, eval_batches=1), events.append, progress=progress)
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert [event.step for event in skipped] == [1, 2, 3]
    assert skipped[0].reason == "gradients times 65536 are beyond f16"
    assert (progress.step, progress.skipped, len(progress.norms)) == (8, 3, 5)
    assert progress.loss_scale == LossScale(8192.0, 5)
    state = progress.state(data.train)
    assert state["loss_scale"] == {"value": 8192.0, "steady": 5}


def test_a_scale_that_cannot_shrink_is_not_to_blame(model: CpuModel, data: Data) -> None:
    with pytest.raises(NumericsError, match="step 17: the gradient norm is inf"):
        train(cast(Model, Narrow(model, limit=0.5)), data, TrainSettings(40, eval_batches=1))
