"""Damaged checkpoints and failing disks: all is seen, nothing is lost."""

from __future__ import annotations

import errno
import random
import resource
import shutil
from pathlib import Path

import pytest

from gptc.errors import GptcError, StorageError
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Saved, Step, Trouble
from gptc.runtime.history import History, verified
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.train import train
from tests.conftest import FULL
from tests.runtime.checkpointing import SETTINGS, SHORT, Disk, lasting, write


def test_every_flipped_bit_is_found(trained: CpuModel, tmp_path: Path) -> None:
    """In the manifest, and in the header and the numbers of every other file."""
    folder, rng = write(trained, tmp_path / "a"), random.Random(0)
    parts = [part for path in sorted(folder.iterdir()) for part in parts_of(path)]
    assert len(parts) == 5
    for path, start, stop in parts:
        for _ in range(500 if FULL else 50):
            at, bit = rng.randrange(start, stop), 1 << rng.randrange(8)
            flip(path, at, bit)
            with pytest.raises(GptcError, match=str(folder)):
                verified(folder)
            flip(path, at, bit)
    verified(folder)


def parts_of(path: Path) -> list[tuple[Path, int, int]]:
    """Where the parts of a file begin and end."""
    size = path.stat().st_size
    if path.suffix == ".json":
        return [(path, 0, size)]
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    return [(path, 0, header), (path, header, size)]


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))


# Disks that fail.


FAULTS = [(errno.EIO, False), (errno.ENOSPC, True), (SHORT, False)]
MORE_FAULTS = [(errno.EIO, True), (errno.ENOSPC, False), (errno.EDQUOT, True), (errno.EROFS, True)]


@pytest.mark.parametrize(("number", "lasting_"), FAULTS + (MORE_FAULTS if FULL else []))
def test_every_failing_call(
    trained: CpuModel, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lasting_: bool
) -> None:
    """The n-th open, write, fsync, rename, mkdir or close of a save fails, for every n: once, or it and all after."""
    monkeypatch.setattr("gptc.runtime.saver.PAUSES", (0.0, 0.0))
    history, other = History(tmp_path / "run"), CpuModel(trained.artefact, library)
    with history.writing():
        save(trained, history, 1)
    disk, n = Disk(0, number, lasting_), 0
    while disk.calls >= n:
        n += 1
        disk = Disk(n, number, lasting_)
        shutil.rmtree(history.path(2), ignore_errors=True)
        with history.writing(), monkeypatch.context() as patch:
            patch.setattr("gptc.runtime.atomic.os", disk)
            events, failed = save(trained, history, 2)
        assert any(isinstance(event, Saved) for event in events) != failed
        assert failed == any(isinstance(event, Trouble) and event.lost for event in events)
        assert failed <= lasting_
        if disk.calls >= n and number != SHORT:
            assert any(isinstance(event, Trouble) for event in events)  # nothing is silent
        with history.writing():  # as the next process finds it
            found = history.newest(pytest.fail)
        assert found is not None
        assert found.step == 2 or (failed and found.step == 1)
        found.load(other)
        assert lasting(other) == lasting(trained)
        assert {p.name for p in history.folder.iterdir()} - {"step-00000002"} == {".lock", "step-00000001"}
    assert n > 15


def save(model: CpuModel, history: History, step: int) -> tuple[list[Event], bool]:
    events: list[Event] = []
    saver = Saver(model, history, SETTINGS, report=events.append)
    saver.save(step, {})
    saver.finish()
    return events, saver.failed


def test_a_full_disk_does_not_end_the_run(
    trained: CpuModel, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing: no file may grow past 100,000 bytes.  Told at every turn, and at the end by the exit code."""
    monkeypatch.setattr("gptc.runtime.saver.PAUSES", (0.0, 0.0))
    history, events = History(tmp_path / "run"), list[Event]()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with history.writing():
        saver = Saver(trained, history, SETTINGS, 2, events.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StorageError, match="step 6 is not on the disk"):
                train(trained, data, TrainSettings(6), events.append, saver=saver)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sum(isinstance(event, Step) for event in events) == 6
    assert sum(isinstance(event, Trouble) and event.lost for event in events) == 3
    assert [path.name for path in history.folder.iterdir()] == [".lock"]
