"""Checkpoints: what is in them, that damage is seen, and that a run goes on to the bit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.compiler import Compiled, build_model
from gptc.errors import GptcError, InputError, StorageError
from gptc.runtime import checkpoint as format_
from gptc.runtime.cache import Cache
from gptc.runtime.checkpoint import Moment, open_checkpoint, write_checkpoint
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data, open_data
from gptc.runtime.events import Event, Saved, Step, Trouble
from gptc.runtime.history import History, verified
from gptc.runtime.init import initialise
from gptc.runtime.interrupt import Interrupted
from gptc.runtime.resume import Start, begin, require_same
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.snapshot import Snapshot, lasting_state
from gptc.runtime.train import train
from tests.runtime.conftest import FULL, loaded
from tests.runtime.toy import write_toy

SETTINGS = {"train.lr": 0.01, "train.steps": 20, "graph.x": "embedding(wte, tokens)", "data": "text"}
STEPS = 20


@pytest.fixture
def data(tmp_path: Path) -> Data:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(50)) * 40)
    return open_data(path, "bytes", 2, 12, 50)


@pytest.fixture
def trained(tiny: Compiled, library: Path) -> CpuModel:
    """A model with AdamW's moments, which are not zero."""
    model = CpuModel(tiny.artefact, library)
    model.set_threads(1)
    initialise(model)
    rng = np.random.default_rng(0)
    for tensor in tiny.artefact.manifest.state:
        model[tensor.name][...] = np.abs(rng.standard_normal(tensor.shape, np.float32))
    return model


def write(model: CpuModel, folder: Path, step: int = 7) -> Path:
    snapshot = Snapshot(model)
    snapshot.take(model)
    write_checkpoint(folder, snapshot, model.artefact.manifest, Moment(step, SETTINGS, {"step": step}))
    return folder


def lasting(model: CpuModel) -> bytes:
    return model.segment("params").tobytes() + model.segment("state").tobytes()


# What is in them.


def test_a_checkpoint_comes_back(trained: CpuModel, library: Path, tmp_path: Path) -> None:
    folder = write(trained, tmp_path / "a")
    other = CpuModel(trained.artefact, library)
    checkpoint = verified(folder)
    checkpoint.load(other)
    assert lasting(other) == lasting(trained)
    assert (checkpoint.step, checkpoint.manifest.settings) == (7, SETTINGS)
    again = write(trained, tmp_path / "b")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()  # equal states are equal bytes
    assert set(load_file(folder / "weights.safetensors")) == {p.name for p in trained.artefact.manifest.params}


def test_any_range_from_any_number_of_parts(trained: CpuModel, library: Path, tmp_path: Path) -> None:
    """State that three ranks have written, a third of each tensor each, and not in order."""
    folder = write(trained, tmp_path / "a")
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = load_file(folder / format_.state_file(0, 1))
    (folder / format_.state_file(0, 1)).unlink()
    parts = {name: np.linspace(0, len(tensor), 4).astype(int).tolist() for name, tensor in whole.items()}
    files = {"weights.safetensors": format_.Written(**manifest["files"]["weights.safetensors"])}
    for rank in range(3):
        share = {name: tensor[parts[name][rank] : parts[name][rank + 1]] for name, tensor in whole.items()}
        name = format_.state_file(rank, 3)
        files[name] = format_.write_file(folder / name, format_.pieces(share, {}))
    for name, state in manifest["state"].items():
        ranges = [(rank, parts[name][rank], parts[name][rank + 1]) for rank in (2, 0, 1)]
        state["parts"] = [{"file": format_.state_file(r, 3), "start": low, "stop": high} for r, low, high in ranges]
    moment, origin = Moment(7, SETTINGS, {}), {k: manifest[k] for k in ("gptc", "model", "tokenizer", "code", "dims")}
    format_.write_manifest(folder, origin, moment, files, manifest["state"], 3)
    checkpoint, other = verified(folder), CpuModel(trained.artefact, library)
    checkpoint.load(other)
    assert lasting(other) == lasting(trained)
    np.testing.assert_array_equal(checkpoint.read("wte.m", 100, 1300), whole["wte.m"][100:1300])
    del manifest["state"]["wte.m"]["parts"][0]
    format_.write_manifest(folder, origin, moment, files, manifest["state"], 3)
    with pytest.raises(StorageError, match=r"wte\.m has no element"):
        open_checkpoint(folder).load(other)


def test_bf16_and_padding(tmp_path: Path, shared_cache: Cache) -> None:
    folder = write_toy(tmp_path / "toy")
    manifest = json.loads((folder / "manifest.json").read_text())
    half = {"name": "half", "segment": "state", "offset": manifest["segments"]["state"], "shape": [8, 4],
            "dtype": "bf16"}  # fmt: skip
    manifest["state"].append(half)
    manifest["segments"]["state"] += 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model, other = loaded(folder, shared_cache), loaded(folder, shared_cache)
    model["half"][...] = np.arange(32).reshape(8, 4) / 3
    model["table"][:, :256] += 1
    verified(write(model, tmp_path / "a")).load(other)
    assert lasting(other) == lasting(model)
    assert other["half"].dtype == ml_dtypes.bfloat16


def test_sums_of_gradients_stay_out(accumulating: Compiled, cache: Cache, tmp_path: Path) -> None:
    """What the next step begins anew is not worth a third of the file."""
    model = CpuModel(accumulating.artefact, build_model(accumulating, cache).library)
    checkpoint = open_checkpoint(write(model, tmp_path / "a"))
    assert {name.rpartition(".")[2] for name in checkpoint.manifest.state} == {"m", "v"}


# Going on.


@pytest.mark.parametrize("kind", ["tiny", "accumulating"])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    kind: str, data: Data, tmp_path: Path, cache: Cache, request: pytest.FixtureRequest
) -> None:
    """Stopped after each of its steps, and gone on from there in a new model: the same weights, moments and losses."""
    compiled: Compiled = request.getfixturevalue(kind)
    library = build_model(compiled, cache).library

    def run(history: History, stop: int | None, resume: str | None) -> tuple[CpuModel, list[float]]:
        model, losses = CpuModel(compiled.artefact, library), []
        model.set_threads(1)
        progress = begin(Start(resume), model, data, history, SETTINGS)

        def report(event: Event) -> None:
            if isinstance(event, Step):
                losses.append(event.loss)
                if event.step == stop:
                    raise Interrupted(15)

        saver = Saver(model, history, SETTINGS)
        try:
            train(
                model, data, TrainSettings(STEPS, eval_every=6, eval_batches=1), report, saver=saver, progress=progress
            )
        except Interrupted:
            assert stop
        return model, losses

    undisturbed, expected = run(History(tmp_path / "none"), None, None)
    for stop in range(1, STEPS + 1, 1 if FULL else 5):
        history = History(tmp_path / f"{stop}")
        with history.writing():
            _, before = run(history, stop, None)
            model, after = run(history, None, "auto")
        assert before + after == expected
        assert lasting(model)[: len(model.segment("params"))] == undisturbed.segment("params").tobytes()
        for tensor in lasting_state(undisturbed):
            np.testing.assert_array_equal(model[tensor.name], undisturbed[tensor.name])
        assert history.steps() == [stop]


def test_changed_settings_are_shown(trained: CpuModel, data: Data, tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    with history.writing():
        history.add(7, lambda folder: write(trained, folder) and None)
    now = SETTINGS | {"train.lr": 0.1, "graph.x": "embedding(wpe, tokens)", "options.fuse": True}
    with pytest.raises(InputError) as caught:
        begin(Start("auto", frozenset({"graph"})), trained, data, history, now)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.notes == (
        "options.fuse: absent in the checkpoint, True now",
        "train.lr: 0.01 in the checkpoint, 0.1 now",
    )
    assert diagnostic.hint is not None
    assert "--allow-change options.fuse,train.lr" in diagnostic.hint


def test_other_code_is_told_where_nothing_else_says_why(trained: CpuModel, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(trained, tmp_path / "a"))
    require_same(checkpoint, trained.artefact.manifest.hash, SETTINGS, ())
    with pytest.raises(InputError, match=f"code: '{trained.artefact.manifest.hash}' in the checkpoint, 'f00' now"):
        require_same(checkpoint, "f00", SETTINGS, ())
    require_same(checkpoint, "f00", SETTINGS, ("code",))
    require_same(checkpoint, "f00", SETTINGS | {"train.lr": 1.0}, ("train",))


def test_an_imported_checkpoint_knows_no_settings(trained: CpuModel, tmp_path: Path) -> None:
    snapshot = Snapshot(trained)
    write_checkpoint(tmp_path / "a", snapshot, trained.artefact.manifest, Moment(1, {}, {}))
    checkpoint = open_checkpoint(tmp_path / "a")
    with pytest.raises(InputError, match="nothing is known of the settings"):
        require_same(checkpoint, "f00", SETTINGS, ("train",))
    require_same(checkpoint, "f00", SETTINGS, ("all",))


def test_a_checkpoint_of_another_model(trained: CpuModel, model: CpuModel, tmp_path: Path) -> None:
    before = lasting(model)
    with pytest.raises(InputError, match=r"bias\.g is missing in the checkpoint, f32\[320\] in the model"):
        verified(write(trained, tmp_path / "a")).load(model)
    assert lasting(model) == before


# The folder of a run.


def test_what_is_kept(trained: CpuModel, tmp_path: Path) -> None:
    history = History(tmp_path / "run", keep_last=2, keep_every=40)
    with history.writing():
        for step in range(10, 101, 10):
            history.add(step, lambda folder, step=step: write(trained, folder, step) and None)
            if step == 30:
                (history.path(30) / "manifest.json").write_bytes(b"{")
            history.prune()
    assert history.steps() == [30, 40, 80, 90, 100]  # 30 is damaged: not counted, not removed


def test_auto_passes_over_the_damaged(trained: CpuModel, data: Data, tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    with history.writing():
        for step in (1, 2, 3):
            history.add(step, lambda folder, step=step: write(trained, folder, step) and None)
    (history.path(3) / "weights.safetensors").unlink()
    path = history.path(2) / format_.state_file(0, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    told: list[str] = []
    found = history.newest(told.append)
    assert found is not None
    assert found.step == 1
    assert len(told) == 2
    assert "step-00000003" in told[0]
    assert "sha256" in told[1]
    assert history.steps() == [1, 2, 3]
    for step, error in ((2, StorageError), (5, InputError)):
        with pytest.raises(error):
            begin(Start(str(step)), trained, data, history, SETTINGS)
    with pytest.raises(InputError, match="the newest is of step 3"):
        begin(Start(), trained, data, history, SETTINGS)
    (history.path(1) / "manifest.json").unlink()
    with pytest.raises(InputError, match="none of them is sound"):
        begin(Start("auto"), trained, data, history, SETTINGS)


def test_going_back_leaves_what_came_after(trained: CpuModel, data: Data, tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    progress = {"step": 1, "loss": None, "loader": data.train.state(1)}
    snapshot = Snapshot(trained)
    with history.writing():
        for step in (1, 2):
            moment = Moment(step, SETTINGS, progress)
            history.add(step, lambda to, m=moment: write_checkpoint(to, snapshot, trained.artefact.manifest, m))
    told: list[str] = []
    begin(Start("1"), trained, data, history, SETTINGS, told.append)
    assert told[1:] == ["the checkpoint of step 2 is now step-00000002.aside-1"]
    assert history.steps() == [1]


def test_one_writer(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    with history.writing(), pytest.raises(InputError, match="another process"), history.writing():
        pass
    with history.writing():
        pass


# Damage.


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


CALLS = ("open", "write", "fsync", "rename", "mkdir", "close")


class Disk:
    """`os`, whose call number `n` of those that write fails: that one alone, or it and all that follow."""

    def __init__(self, n: int, number: int, lasting: bool) -> None:
        self.n, self.number, self.lasting, self.calls = n, number, lasting, 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        return self._wrap(name, real) if name in CALLS else real

    def _wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any) -> object:
            self.calls += 1
            if self.calls != self.n and not (self.lasting and self.calls > self.n):
                return real(*arguments)
            if self.number == SHORT:
                return os.write(arguments[0], arguments[1][:1]) if name == "write" else real(*arguments)
            if name == "close":
                real(*arguments)  # Linux closes, whatever it answers
            raise OSError(self.number, os.strerror(self.number))

        return call


SHORT = 0
"""Of a write only the first byte is taken."""
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
