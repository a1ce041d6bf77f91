"""Running on a device: what is told where there is none, and the emitted step against the C one where there is."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gptc.compiler import Compiled, build_model, compile_model
from gptc.errors import InputError, NumericsError, ToolMissing
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.artefact import Artefact
from gptc.runtime.cache import Cache
from gptc.runtime.cuda import CudaModel, check_gpu
from gptc.runtime.data import Data
from gptc.runtime.device import Gpu, driver
from gptc.runtime.init import initialise
from gptc.runtime.loader import Loader
from gptc.runtime.model import load_model
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from tests.conftest import TINY


def has_device() -> bool:
    try:
        driver()
    except ToolMissing:
        return False
    return True


def test_artefact_of_another_target(tiny: Compiled) -> None:
    with pytest.raises(InputError, match="is for target 'c', not 'cuda'"):
        CudaModel(tiny.artefact, Path("libmodel.so"))


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package that is missing, and the driver's library that it does not find, are told apart."""
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    driver.cache_clear()
    with pytest.raises(ToolMissing, match="cannot load pycuda") as caught:
        driver()
    assert caught.value.code == 3
    assert caught.value.diagnostics[0].hint == "pip install 'gptc[cuda]'"
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what is imported now is forgotten in the end
        del sys.modules[name]
    with pytest.raises(ToolMissing, match="cannot load pycuda: libcuda") as caught:
        driver()
    assert "NVIDIA's driver" in (caught.value.diagnostics[0].hint or "")


def test_too_little_device_memory(tiny: Compiled) -> None:
    need = sum(tiny.artefact.manifest.segments.values())
    check_gpu(tiny.artefact, Gpu("a GPU", 90, need, need))
    with pytest.raises(InputError, match="GiB of device memory") as caught:
        check_gpu(tiny.artefact, Gpu("a GPU", 90, need - 1, need))
    assert "--batch" in (caught.value.diagnostics[0].hint or "")


@pytest.mark.parametrize(
    ("code", "runs"), [("sm_80", {80, 89, 90, 100}), ("sm_90", {90, 100}), ("sm_90a", {90}), ("sm_100", {100})]
)
def test_architecture(tiny: Compiled, code: str, runs: set[int]) -> None:
    """Code runs on later processors, but for that of one architecture alone."""
    build = tiny.artefact.manifest.build.model_copy(update={"flags": (f"-gencode=arch=compute_90,code=[{code},x]",)})
    artefact = replace(tiny.artefact, manifest=tiny.artefact.manifest.model_copy(update={"build": build}))
    for capability in (80, 89, 90, 100):
        gpu = Gpu("a GPU", capability, 1 << 40, 1 << 40)
        if capability in runs:
            check_gpu(artefact, gpu)
        else:
            with pytest.raises(InputError, match=f"compiled for {code}; this GPU, a GPU, is sm_{capability}"):
                check_gpu(artefact, gpu)


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None or not has_device(), reason="no CUDA device")
def test_steps_agree_with_c(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    losses = {target: steps(target, tmp_path, cache) for target in ("c", "cuda")}
    np.testing.assert_allclose(losses["cuda"], losses["c"], rtol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None or not has_device(), reason="no CUDA device")
def test_numbers_that_end_on_a_device(tmp_path: Path) -> None:
    """Scores that no float32 holds: the update is skipped, to the bit, and tensor, op and line are named."""
    cache = Cache(tmp_path / "cache")
    compiled = compile_model(Request(TINY, Options(target="cuda")), tmp_path, cache)
    model = load_model(compiled.artefact, build_model(compiled, cache).library)
    initialise(model)
    model["h.0.qkv.w"][...] = 1e20 * np.sign(np.asarray(model["h.0.qkv.w"]))
    before = [model.segment(name).tobytes() for name in ("params", "state")]
    dims = compiled.artefact.manifest.dims
    loader = Loader([Memory((np.arange(2000) % dims["V"]).astype(np.uint16))], dims["B"], dims["T"], dims["V"])
    with pytest.raises(NumericsError, match=r"tiny.yaml:\d+:\d+: error: step 1: .* not finite is h.0.*\n.*\n.*kernel"):
        train(model, Data("numbers", loader, loader), TrainSettings(1))
    assert [model.segment(name).tobytes() for name in ("params", "state")] == before


def steps(target: str, folder: Path, cache: Cache) -> list[float]:
    """Losses and norms of a few steps on one batch."""
    compiled = compile_model(Request(TINY, Options(target=target)), folder, cache)
    artefact: Artefact = compiled.artefact
    model = load_model(artefact, build_model(compiled, cache).library)
    initialise(model)
    dims = artefact.manifest.dims
    tokens = np.random.default_rng(3).integers(0, dims["V"], (dims["B"], dims["T"] + 1))
    model["tokens"][...], model["targets"][...] = tokens[:, :-1], tokens[:, 1:]
    found: list[float] = []
    for number in range(1, 4):
        model["lr"][...], model["step"][...] = 1e-3, number
        model.run("step")
        found += [float(model["loss"]), float(model["norm"])]
    return found
