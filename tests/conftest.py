"""A tiny model with padding, every kind of init and a comment that no C file may trip over, compiled once."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gptc.codegen.target import describe
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.init import initialise

TINY = Path(__file__).parent / "artefact" / "tiny.yaml"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
"""Emitted code compiles without a complaint."""
FULL = bool(os.environ.get("GPTC_TEST_FULL"))
"""Run the long forms: every mutant, every kill (docs/testing.md)."""


def pytest_configure() -> None:
    """Tests send SIGINT to processes that they start, which inherit that a shell in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is emitted now over the golden files")


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fails, in tests or in processes that they start, leaves its reproducer among the tests' own files."""
    folder, before = str(tmp_path_factory.mktemp("temporary")), tempfile.gettempdir()
    with pytest.MonkeyPatch.context() as patch:
        if not {"TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"} & os.environ.keys():
            patch.setenv("TIKTOKEN_CACHE_DIR", str(Path(before) / "data-gym-cache"))  # where tiktoken keeps its files
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="session")
def tiny(cache: Cache, out: Path) -> Compiled:
    """For training, a step of one micro-step."""
    return compile_model(Request(TINY), out, cache)


@pytest.fixture(scope="session")
def accumulating(cache: Cache, out: Path) -> Compiled:
    """For training, a step of three micro-steps."""
    return compile_model(Request(TINY, micro_steps=3), out, cache)


@pytest.fixture(scope="session")
def narrow(cache: Cache, out: Path) -> Compiled:
    """For training, weights in bf16 without masters."""
    if not describe("cc", "native").bf16:
        pytest.skip("this machine has no AVX512_BF16")
    return compile_model(Request(TINY, Options(precision="bf16"), ("train.master_weights=false",)), out, cache)


@pytest.fixture(scope="session")
def inferring(cache: Cache, out: Path) -> Compiled:
    return compile_model(Request(TINY, Options(mode="infer"), batch=1), out, cache)


@pytest.fixture(scope="session")
def library(tiny: Compiled, cache: Cache) -> Path:
    return build_model(tiny, cache).library


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
