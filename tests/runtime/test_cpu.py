"""Running a built artefact: memory, programs, the hook, threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError, InternalError, ToolMissing
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.build import build
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CROWD, CpuModel
from gptc.runtime.init import SEED, draw, initialise
from gptc.runtime.machine import cores
from gptc.runtime.manifest import Constant, Ones, Uniform
from gptc.runtime.rng import Mt19937
from tests.runtime.toy import write_toy


def set_batch(model: CpuModel) -> None:
    model["tokens"][...] = np.arange(16).reshape(2, 8)
    model["targets"][...] = np.arange(16).reshape(2, 8) + 1
    model["lr"][...] = 5.0


def test_initial_weights(model: CpuModel) -> None:
    table, bias = model.artefact.manifest.params
    expected = Mt19937(SEED).normal(256 * 256, 0.02).reshape(256, 256)
    np.testing.assert_array_equal(model.valid(table), expected)
    assert not model["table"][:, 256:].any()
    assert not model.valid(bias).any()
    initialise(model, 43)
    assert (model.valid(table) != expected).any()


def test_other_inits() -> None:
    rng = Mt19937(1)
    assert draw(Ones(kind="ones"), 3, rng).tolist() == [1, 1, 1]
    assert draw(Constant(kind="constant", value=0.5), 2, rng).tolist() == [0.5, 0.5]
    values = draw(Uniform(kind="uniform", low=-3, high=-1), 5000, rng)
    assert -3 <= values.min() < -2.99
    assert -1.01 < values.max() < -1


def test_a_step_against_numpy(model: CpuModel) -> None:
    set_batch(model)
    before = model["table"][:, :256].astype(np.float64)
    x, y = model["tokens"].ravel(), model["targets"].ravel()
    model.run("step")
    probs = np.exp(before[x]) / np.exp(before[x]).sum(-1, keepdims=True)
    assert model["loss"] == pytest.approx(-np.log(probs[np.arange(16), y]).mean(), rel=1e-5)
    delta = (probs - np.eye(256)[y]) / 16
    expected = before.copy()
    np.add.at(expected, x, -5.0 * delta)
    np.testing.assert_allclose(model["table"][:, :256], expected, rtol=1e-5, atol=1e-7)
    assert model["norm"] == pytest.approx(np.sqrt((delta**2).sum() + (delta.sum(0) ** 2).sum()), rel=1e-5)


def test_memory_is_aligned_and_sized(model: CpuModel) -> None:
    for name, size in model.artefact.manifest.segments.items():
        assert model.segment(name).nbytes == size
        assert model.segment(name).ctypes.data % 64 == 0


def test_same_bits_for_any_thread_count(toy: Artefact, shared_cache: Cache) -> None:
    library = build(toy, cache=shared_cache).library
    weights = set()
    for threads in (1, 2, 3, 7):
        model = CpuModel(toy, library)
        initialise(model)
        model.set_threads(threads)
        set_batch(model)
        for _ in range(3):
            model.run("step")
        weights.add(model.segment("params").tobytes())
    assert len(weights) == 1


@pytest.mark.parametrize("n", [0, -1, CROWD * cores() + 1, 1 << 40])
def test_absurd_thread_counts(model: CpuModel, n: int) -> None:
    with pytest.raises(InputError, match=rf"{n} threads: must be in 1\.\.{CROWD * cores()} on {cores()} cores"):
        model.set_threads(n)


def test_absurd_thread_counts_of_the_environment(toy: Artefact, shared_cache: Cache) -> None:
    library = build(toy, cache=shared_cache).library
    code = "import sys\nfrom gptc.runtime.artefact import open_artefact\nfrom gptc.runtime.cpu import CpuModel\n"
    code += "from pathlib import Path\nCpuModel(open_artefact(sys.argv[1]), Path(sys.argv[2]))"
    argv = [sys.executable, "-c", code, str(toy.folder), str(library)]
    variables = {"OMP_NUM_THREADS": "100000", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr
    assert "100000 threads: must be in 1.." in done.stderr


def test_a_library_without_openmp(tmp_path: Path, shared_cache: Cache) -> None:
    write_toy(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["build"]["flags"].remove("-fopenmp")
    path.write_text(json.dumps(manifest))
    artefact = open_artefact(tmp_path)
    model = CpuModel(artefact, build(artefact, cache=shared_cache).library)
    model.set_threads(1)
    with pytest.raises(InputError, match="built for one thread"):
        model.set_threads(2)


def test_hook_sees_every_call(model: CpuModel) -> None:
    set_batch(model)
    calls: list[tuple[int, float]] = []
    model.on_call(lambda n: calls.append((n, float(model["loss"]))))
    model.run("evaluate")
    assert [n for n, _ in calls] == [0, 1]
    assert calls[0][1] == 0 != calls[1][1]  # the memory is seen as it is at that moment
    model.on_call(None)
    model.run("evaluate")
    assert len(calls) == 2


def test_hook_errors_come_out_of_run(model: CpuModel) -> None:
    set_batch(model)
    seen = []

    def fail(n: int) -> None:
        seen.append(n)
        raise KeyError("mine")

    model.on_call(fail)
    with pytest.raises(KeyError, match="mine"):
        model.run("step")
    assert seen == [0]
    model.on_call(None)
    model.run("step")


def test_unknown_program(model: CpuModel) -> None:
    with pytest.raises(InputError, match="no program 'logits'"):
        model.run("logits")


def edited(folder: Path, **fields: object) -> Artefact:
    write_toy(folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return open_artefact(folder)


def test_other_targets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is for target 'cuda'"):
        CpuModel(edited(tmp_path, target="cuda"), tmp_path)


def test_more_memory_than_there_is(tmp_path: Path, toy: Artefact, shared_cache: Cache) -> None:
    library = build(toy, cache=shared_cache).library
    huge = edited(tmp_path, segments=toy.manifest.segments | {"arena": 1 << 60})
    with pytest.raises(InputError, match="needs 1,073,741,824"):
        CpuModel(huge, library)


def test_libraries_that_do_not_fit(tmp_path: Path, toy: Artefact, shared_cache: Cache) -> None:
    (tmp_path / "libmodel.so").write_bytes(b"not ELF")
    with pytest.raises(ToolMissing, match="cannot load libmodel"):
        CpuModel(toy, tmp_path / "libmodel.so")
    lacking = tmp_path / "lacking"
    write_toy(lacking, missing="avx1024")
    with pytest.raises(ToolMissing, match="needs a processor with avx1024, which this one lacks") as caught:
        CpuModel(open_artefact(lacking), build(open_artefact(lacking), cache=shared_cache).library)
    assert caught.value.diagnostics[0].hint == "compile the model with --march native"
    program = {"name": "fly", "function": "gptc_fly", "inputs": [], "outputs": [], "calls": 0}
    with pytest.raises(InternalError, match="gptc_fly, which the library does not define"):
        CpuModel(edited(tmp_path, programs=[program]), build(toy, cache=shared_cache).library)
