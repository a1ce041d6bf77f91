"""Outliers: the limits against llm.c's z-score and on planted spikes; a run that skips, and goes on to the bit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.detector import WINDOW, Limits, limit
from gptc.runtime.events import Event, Skipped, Step
from gptc.runtime.history import History
from gptc.runtime.interrupt import Interrupted
from gptc.runtime.loader import Loader
from gptc.runtime.progress import Progress
from gptc.runtime.resume import Start, begin
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from tests.runtime.conftest import loaded
from tests.runtime.toy import write_toy


def z_scores(values: list[float]) -> list[float]:
    """As llm.c's `update_detector` returns them: a ring of 128 with its sum and its sum of squares, in doubles."""
    ring, total, squares, found = [0.0] * WINDOW, 0.0, 0.0, []
    for index, x in enumerate(values):
        old = ring[index % WINDOW] if index >= WINDOW else 0.0
        ring[index % WINDOW] = x
        total, squares = total + x - old, squares + x * x - old * old
        mean = total / WINDOW
        deviation = math.sqrt(max(0.0, squares / WINDOW - mean * mean))
        z = (x - mean) / deviation if deviation else 0.0
        found.append(z if index >= WINDOW else math.nan)
    return found


@pytest.mark.llmc(check="K6")
@pytest.mark.parametrize("k", [0.5, 3.0, 8.0, 11.2, 12.0])
def test_the_z_score_of_llmc(k: float) -> None:
    rng = np.random.default_rng(1)
    values = (4 + 0.2 * rng.standard_normal(3000)).astype(np.float32)
    values[rng.integers(WINDOW, 3000, 60)] += np.float32(2) ** rng.integers(-2, 7, 60)
    numbers = values.tolist()
    above = [x > limit(numbers[max(0, i - WINDOW) : i], k, "zscore") for i, x in enumerate(numbers)]
    assert above == [z > k for z in z_scores(numbers)]
    assert any(above) == (k < 11.3)


def test_planted_spikes_are_found() -> None:
    """A loss that falls from 11 to 3.3 with noise; a hundred of 10,000 steps are 20 deviations too high."""
    rng, noise = np.random.default_rng(2), 0.05
    losses = 3.3 + 7.7 * np.exp(-np.arange(10_000) / 900) + noise * rng.standard_normal(10_000)
    planted = set(rng.choice(np.arange(WINDOW, 10_000), 100, replace=False).tolist())
    for step in planted:
        losses[step] += 20 * noise
    numbers = losses.tolist()
    found = {i for i in range(len(numbers)) if numbers[i] > limit(numbers[max(0, i - WINDOW) : i], 6, "mad")}
    late = {step for step in planted if step > 3000}  # before, the fall over a window is wider than a spike
    assert late <= found
    assert len(found - planted) <= 10


@pytest.mark.parametrize("statistic", ["mad", "zscore"])
def test_where_there_is_no_limit(statistic: str) -> None:
    assert limit([1.0, 2.0] * 63, 3, statistic) == math.inf
    assert limit([1.0, 2.0] * 64, 0, statistic) == math.inf
    assert limit([1e38, 3e38] * 64, 8, statistic) == math.inf
    assert limit([2.0] * 128, 3, "mad") == math.inf
    assert limit([2.0] * 128, 3, "zscore") == 2.0
    exact = limit([1.0, 2.0] * 64, 3, statistic)
    assert exact == np.float32(exact)


def test_reasons() -> None:
    assert Limits(2.0, 3.0).reason(2.5, 4.0) == "the loss, 2.5000, is above 2.0000"
    assert Limits(2.0, 3.0).reason(1.5, 4.0) == "the gradient norm, 4.0000, is above 3.0000"
    assert "clips" in Limits().reason(1.0, 1.0)


# A run.

STEPS = 200


@pytest.fixture
def spoilt(tmp_path: Path) -> Data:
    """Text with a few stretches of bytes that occur nowhere else."""
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 200, np.uint8).astype(np.uint16)
    for start in (100, 3000, 5000, 8000):
        text[start : start + 16] = 128 + np.arange(16)
    loader = Loader([Memory(text)], 2, 8, 256)
    return Data("text", loader, loader)


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_a_run_skips_and_goes_on_to_the_bit(
    micro_steps: int, spoilt: Data, tmp_path: Path, shared_cache: Cache
) -> None:
    folder = write_toy(tmp_path / "toy", micro_steps=micro_steps)
    settings = TrainSettings(STEPS, lr=2.0, eval_batches=1, skip_loss_outliers=5.0, skip_norm_outliers=8.0)

    def run(history: History, stop: int | None, resume: str | None) -> tuple[CpuModel, list[Event], Progress]:
        model, events = loaded(folder, shared_cache), []
        progress = begin(Start(resume), model, spoilt, history, {})
        weights = [model.segment("params").tobytes()]

        def report(event: Event) -> None:
            if isinstance(event, Skipped):
                assert model.segment("params").tobytes() == weights[-1]
            if isinstance(event, Skipped | Step):
                events.append(event)
            if isinstance(event, Step):
                weights.append(model.segment("params").tobytes())
                if event.step == stop:
                    raise Interrupted(15)

        try:
            train(model, spoilt, settings, report, saver=Saver(model, history, {}), progress=progress)
        except Interrupted:
            assert stop
        return model, events, progress

    model, events, progress = run(History(tmp_path / "none"), None, None)
    skipped = [event for event in events if isinstance(event, Skipped)]
    odd = {
        step
        for step in range(WINDOW + 1, STEPS + 1)
        for micro in range(micro_steps)
        if (spoilt.train.batch((step - 1) * micro_steps + micro)[0] >= 128).sum() > 2
    }
    assert odd
    assert {event.step for event in skipped} == odd
    assert progress.skipped == len(skipped)
    assert all(event.batch == (event.step - 1) * micro_steps and "above" in event.reason for event in skipped)
    history = History(tmp_path / "stopped")
    stop = skipped[0].step
    with history.writing():
        _, before, _ = run(history, stop, None)
        resumed, after, _ = run(history, None, "auto")
    assert [strip(event) for event in before + after] == [strip(event) for event in events]
    assert resumed.segment("params").tobytes() == model.segment("params").tobytes()


def strip(event: Event) -> object:
    """Without what the clock says."""
    return (event.step, event.loss, event.norm) if isinstance(event, Step) else event
