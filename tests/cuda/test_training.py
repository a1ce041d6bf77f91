"""Training on a device: stopped or killed, a run ends with the bits of one that is not; f16 and its loss scale."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from gptc.ir.types import DType
from gptc.runtime.cuda import CudaModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Skipped, Step
from gptc.runtime.init import initialise
from gptc.runtime.loader import Loader
from gptc.runtime.loss_scale import LossScale
from gptc.runtime.progress import Progress
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from tests.cuda.device import needs_device
from tests.runtime.test_interruptions import STEPS, Trainer, wait_for_handlers, wait_for_step
from tests.system.test_training import allowed, losses, tokens
from tests.system.workshop import Built, Workshop

pytestmark = [pytest.mark.gpu, needs_device]

CUDA = ("--target", "cuda", "--precision", "bf16", "--save-every", "50")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_stopped_killed_and_gone_on(tmp_path: Path) -> None:
    """The same weights, and each step, sample and score told once, with the same numbers."""
    trainer = Trainer(tmp_path, tmp_path / "cache")
    whole = trainer.start("whole", *CUDA)
    told, problem = whole.communicate()
    assert whole.returncode == 0, problem
    assert re.search(r"step 400: train loss .* \| norm .* tok/s \| \d+\.\d% MFU", told), told

    stopped = trainer.start("stopped", *CUDA)
    wait_for_handlers(stopped)
    wait_for_step(trainer.history("stopped"), 50, stopped)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGTERM, told
    killed = trainer.start("stopped", *CUDA, "--resume", "auto")
    wait_for_step(trainer.history("stopped"), 200, killed)
    killed.kill()
    killed.communicate()

    weights = (trainer.home / "whole" / "weights.safetensors").read_bytes()
    assert trainer.finish("stopped", *CUDA, "--resume", "auto") == weights
    assert trainer.log("stopped") == trainer.log("whole")
    assert trainer.log("whole").count("trl") == STEPS
    for what in ("text", "correct"):
        assert trainer.seen("stopped", what) == trainer.seen("whole", what) != []


def run(built: Built, progress: Progress) -> tuple[list[Event], list[bytes]]:
    """What a run up to step 30 tells, and the weights before it and after each of its steps."""
    model = CudaModel(built.artefact, built.library)
    initialise(model)
    dims = built.artefact.manifest.dims
    loader = Loader([Memory(tokens(4000))], dims["B"], dims["T"], dims["V"])
    events: list[Event] = []

    def parameters() -> bytes:
        return b"".join(np.asarray(model[param.name]).tobytes() for param in built.artefact.manifest.params)

    weights = [parameters()]

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step):
            weights.append(parameters())

    train(model, Data("numbers", loader, loader), TrainSettings(30, eval_batches=2), report, progress=progress)
    return events, weights


def test_gradients_beyond_f16(workshop: Workshop) -> None:
    """Too large a loss scale: updates are skipped until it fits; what follows is as if it had fitted from there on."""
    built = workshop.build(target="cuda", precision="f16")
    first = 2.0**40
    progress = Progress(loss_scale=LossScale(first))
    events, weights = run(built, progress)
    skipped = [event for event in events if isinstance(event, Skipped)]
    count = len(skipped)
    assert 0 < count < 30
    assert [event.step for event in skipped] == list(range(1, count + 1))
    assert skipped[0].reason == "gradients times 1.09951e+12 are beyond f16"
    assert (progress.step, progress.skipped) == (30, count)
    assert progress.loss_scale == LossScale(first / 2**count, 30 - count)
    assert len(set(weights[: count + 1])) == 1
    assert len(set(weights)) == 31 - count
    _, fitting = run(built, Progress(count, count, None, count, loss_scale=LossScale(first / 2**count)))
    assert fitting == weights[count:]


def test_f16_learns_as_f32_does(workshop: Workshop) -> None:
    """Both factors of a product are rounded, each by half of f16's eps: as if the weight were off by eps."""
    built, narrow = workshop.build(), workshop.build(target="cuda", precision="f16")
    model = CudaModel(narrow.artefact, narrow.library)
    initialise(model)
    reference, found = losses(built.model()), losses(model)
    assert found != reference
    assert (np.abs(np.subtract(found, reference)) <= allowed(built, reference, DType.f16.eps)).all(), (found, reference)
