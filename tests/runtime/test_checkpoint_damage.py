"""Damaged checkpoints and failing disks: all is seen, nothing is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import resource
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from gptc.errors import GptcError, StorageError
from gptc.runtime import checkpoint as format_
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Saved, Step, Trouble
from gptc.runtime.history import History, verified
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.train import train
from tests.runtime.checkpointing import SETTINGS, SHORT, Disk, lasting, write
from tests.runtime.conftest import FULL


def test_every_flipped_bit_is_found(trained: CpuModel, tmp_path: Path) -> None:
    folder = write(trained, tmp_path / "a")
    rng = random.Random(0)
    files = sorted(folder.iterdir())
    for turn in range(500):
        path = files[turn % len(files)]
        text = bytearray(path.read_bytes())
        at = rng.randrange(len(text)) if turn % 2 else rng.randrange(min(len(text), 2000))
        text[at] ^= 1 << rng.randrange(8)
        whole = path.read_bytes()
        path.write_bytes(text)
        with pytest.raises(GptcError):
            verified(folder)
        path.write_bytes(whole)
    verified(folder)


def test_mutants(trained: CpuModel, library: Path, tmp_path: Path) -> None:
    """Damaged at random, half of them with hashes that hide it: refused in one line, or loaded; nothing else."""
    folder = write(trained, tmp_path / "a")
    originals = {path.name: path.read_bytes() for path in folder.iterdir()}
    rng = random.Random(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turns, loaded_ = 20_000 if FULL else 200, 0
    for turn in range(turns):
        name = rng.choice(sorted(originals))
        mutant = _mutate(originals[name], rng)
        (folder / name).write_bytes(mutant)
        if turn % 2:
            _hide(folder, originals, rng)
        with suppress(GptcError):
            verified(folder).load(trained)
            loaded_ += 1
        for each, text in originals.items():
            if each in (name, "manifest.json"):
                (folder / each).write_bytes(text)
    assert loaded_ < turns / 4
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 64 << 10


def _mutate(text: bytes, rng: random.Random) -> bytes:
    """Cut, overwritten, doubled or swapped; mostly near the beginning, where the structure is."""
    mutant = bytearray(text)
    at = rng.randrange(min(len(text), rng.choice((64, 4096, len(text)))))
    match rng.randrange(4):
        case 0:
            del mutant[at:]
        case 1:
            mutant[at] = rng.randrange(256)
        case 2:
            mutant[at : at + 8] = rng.choice((b"\xff" * 8, b"9" * 8, b"-1", b"null", b"[" * 4000, b"1e999"))
        case _:
            other = rng.randrange(len(text))
            mutant[at : at + 16] = mutant[other : other + 16]
    return bytes(mutant)


def _hide(folder: Path, originals: dict[str, bytes], rng: random.Random) -> None:
    """Make every hash right again, and one number of the manifest wrong."""
    try:
        body = json.loads((folder / "manifest.json").read_bytes())
        del body["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        body = json.loads(originals["manifest.json"])
        del body["sha256"]
    for name in body["files"] if isinstance(body.get("files"), dict) else ():
        if (folder / name).is_file() and isinstance(body["files"][name], dict):
            text = (folder / name).read_bytes()
            body["files"][name] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    place: object = body
    while isinstance(place, dict) and place:
        key = rng.choice(sorted(place))
        if not isinstance(place[key], dict):
            place[key] = rng.choice((-1, 0, 1 << 62, "x", None, [], {}, 0.5, "../../etc/passwd"))
            break
        place = place[key]
    with suppress(ValueError):  # an infinity has no spelling
        (folder / "manifest.json").write_bytes(format_._spell(body))


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
