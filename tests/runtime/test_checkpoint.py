"""Checkpoints: what is in them, which a run has, and that it goes on to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.compiler import Compiled, build_model
from gptc.errors import InputError, StorageError
from gptc.runtime import checkpoint as format_
from gptc.runtime.cache import Cache
from gptc.runtime.checkpoint import Moment, open_checkpoint, write_checkpoint
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Step
from gptc.runtime.history import History, verified
from gptc.runtime.interrupt import Interrupted
from gptc.runtime.resume import Start, begin, require_same
from gptc.runtime.saver import Saver
from gptc.runtime.settings import TrainSettings
from gptc.runtime.snapshot import Snapshot, lasting_state
from gptc.runtime.train import train
from tests.conftest import FULL
from tests.runtime.checkpointing import SETTINGS, lasting, write
from tests.runtime.conftest import loaded
from tests.runtime.toy import write_toy

STEPS = 20


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


@pytest.mark.llmc(check="K7")
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
