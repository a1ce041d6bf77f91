"""Weights in bf16 with and without f32 masters, in built C: learning, and going on from a checkpoint to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.runtime.checkpoint import Moment, open_checkpoint, write_checkpoint
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data, open_data
from gptc.runtime.events import Step
from gptc.runtime.progress import Progress, restore
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import write_shard
from gptc.runtime.snapshot import Snapshot
from gptc.runtime.train import train
from tests.system.workshop import NEEDS_BF16, TINY, Built, Workshop

pytestmark = NEEDS_BF16
HALF, STEPS = 7, 20


def built(workshop: Workshop, folder: Path, settings: str) -> Built:
    path = folder / "tiny.yaml"
    path.write_text(TINY.read_text() + settings)
    return workshop.build(path, batch=4, seq=16, precision="bf16")


def tokens(model: CpuModel, folder: Path) -> Data:
    path = folder / "tokens.bin"
    write_shard(path, (np.arange(900) * 7 % 50).astype(np.uint16))
    dims = model.artefact.manifest.dims
    return open_data(path, "bytes", dims["B"], dims["T"], dims["V"])


def to(model: CpuModel, data: Data, steps: int, progress: Progress | None = None) -> list[float]:
    """Train up to `steps` at the rates of a run of that many; the losses."""
    found: list[float] = []
    report = lambda event: found.append(event.loss) if isinstance(event, Step) else None  # noqa: E731
    train(model, data, TrainSettings(steps, schedule="constant"), report, progress=progress)
    return found


@pytest.mark.parametrize("masters", [True, False])
def test_goes_on_to_the_bit(workshop: Workshop, tmp_path: Path, masters: bool) -> None:
    """Copies are not in the checkpoint: they are rounded again with the same bits.  So they are after a save."""
    made = built(workshop, tmp_path, f"  master_weights: {str(masters).lower()}\n  rounding: stochastic\n")
    assert {p.dtype for p in made.artefact.manifest.params} == ({"f32"} if masters else {"f32", "bf16"})
    whole, first, second = (made.model() for _ in range(3))
    data = tokens(whole, tmp_path)
    losses = to(whole, data, STEPS)
    assert losses[-1] < 0.9 * losses[0]

    snapshot, folder = Snapshot(first), tmp_path / "checkpoint"
    before = to(first, data, HALF)
    snapshot.take(first)
    progress = Progress(HALF, HALF, before[-1]).state(data.train)
    write_checkpoint(folder, snapshot, made.artefact.manifest, Moment(HALF, {}, progress))
    second.set_threads(3)
    for model, where in ((first, Progress(HALF, HALF)), (second, restore(open_checkpoint(folder), second, data.train))):
        assert before + to(model, data, STEPS, where) == losses
        for name in ("params", "state"):
            assert np.array_equal(model.segment(name), whole.segment(name)), name
