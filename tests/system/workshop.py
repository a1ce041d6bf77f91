"""Artefacts for the tests of the whole system, each compiled and built once a session."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gptc.codegen.target import describe
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.artefact import Artefact
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.init import initialise
from tests.conftest import WARNINGS

TINY = Path(__file__).parent / "models" / "tiny.yaml"
NANO = models_dir() / "gpt2-nano.yaml"
STRICT = " ".join(("cc", *WARNINGS))
"""Every build of these tests is one that a single warning would fail."""
NEEDS_BF16 = pytest.mark.skipif(not describe("cc", "native").bf16, reason="this machine has no AVX512_BF16")


@dataclass(frozen=True)
class Built:
    """An artefact and its library."""

    artefact: Artefact
    library: Path

    def model(self) -> CpuModel:
        """A new model with its initial weights."""
        model = CpuModel(self.artefact, self.library)
        initialise(model)
        return model


class Workshop:
    """Compiles and builds under `root`.  What is asked for again comes from the cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = Cache(root / "cache")

    def compile(self, path: Path = TINY, batch: int = 2, seq: int = 16, micro: int = 1, **options: Any) -> Compiled:
        request = Request(path, Options(**{"compiler": STRICT} | options), (), batch, seq, micro)
        return compile_model(request, self.root / "build", self.cache)

    def build(self, path: Path = TINY, batch: int = 2, seq: int = 16, micro: int = 1, **options: Any) -> Built:
        compiled = self.compile(path, batch, seq, micro, **options)
        return Built(compiled.artefact, build_model(compiled, self.cache).library)


def make(artefact: Artefact, parent: Path, *arguments: str) -> Path:
    """Run `make` in a copy of the folder, as a user would; returns the copy."""
    folder = parent / artefact.folder.name
    shutil.copytree(artefact.folder, folder)
    done = subprocess.run(
        ["make", "-j", str(os.cpu_count()), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def run_native(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the native trainer that `make` has left in `folder`."""
    return subprocess.run([folder / "train", *arguments], capture_output=True, text=True, check=False)
