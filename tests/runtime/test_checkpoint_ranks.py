"""Ranks that divide the optimizer's state write one checkpoint together, or none; any number of ranks reads it.

The ranks are threads: what they say to each other goes through a barrier in place of MPI.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.compiler import Compiled, build_model, compile_model
from gptc.errors import InputError
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cache import Cache
from gptc.runtime.checkpoint import state_file
from gptc.runtime.cpu import CpuModel
from gptc.runtime.events import Event, Saved, Trouble
from gptc.runtime.history import History, verified
from gptc.runtime.saver import Saver
from gptc.runtime.snapshot import Snapshot, lasting_state
from gptc.runtime.world import ALONE, Result, World
from gptc.shares import part
from tests.conftest import TINY
from tests.runtime.checkpointing import SETTINGS, Disk

RANKS = 3


class Thread(World):
    """One of several ranks that are threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, said: list[Any]) -> None:
        self.rank, self.size, self.barrier, self.said = rank, barrier.parties, barrier, said

    def each(self, work: Callable[[], Result]) -> list[Result]:
        try:
            self.said[self.rank] = work()
        except OSError as error:
            self.said[self.rank] = error
        self.barrier.wait(10)
        answers = list(self.said)
        self.barrier.wait(10)
        for answer in answers:
            if isinstance(answer, OSError):
                raise answer
        return answers


@pytest.fixture(scope="module")
def divided(cache: Cache, out: Path) -> Compiled:
    return compile_model(Request(TINY, Options(ranks=True, shards=RANKS)), out, cache)


@pytest.fixture
def models(divided: Compiled, cache: Cache) -> list[CpuModel]:
    """A model a rank, with the same parameters and their own state."""
    library, found = build_model(divided, cache).library, []
    for rank in range(RANKS):
        model = CpuModel(divided.artefact, library)
        model.segment("params").view(np.float32)[:] = np.arange(model.segment("params").size // 4)
        for tensor in lasting_state(model):
            assert tensor.whole
            start, stop = part(int(np.prod(tensor.whole)), RANKS, rank)
            model[tensor.name][: stop - start] = 1 + np.arange(start, stop)
        found.append(model)
    return found


def save(models: list[CpuModel], history: History, step: int) -> list[tuple[list[Event], bool]]:
    """What the saver of each rank reports, and whether it says that the checkpoint is lost."""
    barrier, said = threading.Barrier(len(models)), [None] * len(models)

    def one(rank: int) -> tuple[list[Event], bool]:
        events: list[Event] = []
        saver = Saver(models[rank], history, SETTINGS, report=events.append, world=Thread(rank, barrier, said))
        saver.save(step, {})
        saver.finish()
        return events, saver.failed

    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(one, range(len(models))))


def test_one_rank_reads_it_and_each_of_many(
    models: list[CpuModel], tiny: Compiled, library: Path, tmp_path: Path
) -> None:
    history = History(tmp_path / "run")
    with history.writing():
        outcomes = save(models, history, 7)
    assert not any(failed for _, failed in outcomes)
    checkpoint = history.verified(7)
    assert checkpoint.manifest.world == RANKS
    assert {p.name for p in checkpoint.folder.glob("state-*")} == {state_file(rank, RANKS) for rank in range(RANKS)}
    plain = CpuModel(tiny.artefact, library)
    checkpoint.load(plain)
    for tensor in lasting_state(plain):
        assert plain[tensor.name].reshape(-1).tolist() == list(range(1, 1 + plain[tensor.name].size))
    for rank, model in enumerate(models):
        model.segment("state")[:] = 0
        checkpoint.load_state(model, rank)
        for tensor in lasting_state(model):
            start, stop = part(plain[tensor.name].size, RANKS, rank)
            assert model[tensor.name][: stop - start].tolist() == list(range(1 + start, 1 + stop))
    with pytest.raises(InputError, match=r"divides its state among 3 ranks; this job has 1"):
        ALONE.attach(models[0])


def test_ranks_write_what_one_would(models: list[CpuModel], tiny: Compiled, library: Path, tmp_path: Path) -> None:
    """A checkpoint of many ranks, read and written by one, holds the same numbers as the first."""
    history, again = History(tmp_path / "run"), History(tmp_path / "again")
    plain = CpuModel(tiny.artefact, library)
    with history.writing(), again.writing():
        save(models, history, 7)
        history.verified(7).load(plain)
        save([plain], again, 7)
    first, second = verified(history.path(7)), verified(again.path(7))
    assert first.manifest.files["weights.safetensors"].bytes == second.manifest.files["weights.safetensors"].bytes
    for name, state in first.manifest.state.items():
        assert state.shape == second.manifest.state[name].shape
        size = int(np.prod(state.shape))
        assert first.read(name, 0, size).tobytes() == second.read(name, 0, size).tobytes()


@pytest.mark.parametrize(("number", "lasting"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_what_fails_on_one_rank_fails_on_all(
    models: list[CpuModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lasting: bool
) -> None:
    """The n-th call of any rank fails, for every n: once, or it and all after."""
    monkeypatch.setattr("gptc.runtime.saver.PAUSES", (0.0,))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # it takes most of the time, and tells nothing here
    history = History(tmp_path / "run")
    with history.writing():
        save(models, history, 1)
    disk, n = Disk(0, number, lasting), 0
    while disk.calls >= n:
        n += 1
        disk = Disk(n, number, lasting)
        shutil.rmtree(history.path(2), ignore_errors=True)
        with history.writing(), monkeypatch.context() as patch:
            patch.setattr("gptc.runtime.atomic.os", disk)
            outcomes = save(models, history, 2)
        assert len({failed for _, failed in outcomes}) == 1, "ranks disagree"
        for events, failed in outcomes:
            assert any(isinstance(event, Saved) for event in events) != failed
            assert failed == any(isinstance(event, Trouble) and event.lost for event in events)
            assert failed <= lasting
        with history.writing():  # as the next process finds it
            found = history.newest(pytest.fail)
        assert found is not None
        assert found.step == 2 or (failed and found.step == 1)
        assert {p.name for p in history.folder.iterdir()} - {"step-00000002"} == {".lock", "step-00000001"}
    assert n > 25


def test_no_memory_on_one_rank_is_told_by_all(
    models: list[CpuModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(model: CpuModel, rank: int) -> Snapshot:
        if rank == 1:
            raise MemoryError
        return Snapshot(model, rank)

    monkeypatch.setattr("gptc.runtime.saver.Snapshot", snapshot)
    history = History(tmp_path / "run")
    with history.writing():
        outcomes = save(models, history, 1)
    for events, failed in outcomes:
        assert failed
        assert [event.message for event in events] == ["checkpoint of step 1: no memory for a copy"]
    assert history.steps() == []
