"""The whole compiler for other instruction sets than this machine's best."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptc.check import check_artefact, check_model
from gptc.codegen.target import describe
from gptc.errors import GptcError
from tests.cli.command import ROOT
from tests.conftest import WARNINGS
from tests.system.child import ChildModel
from tests.system.test_training import allowed, losses
from tests.system.workshop import Workshop

ARM, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SETS = ("x86-64-v3", "x86-64")


def needs(march: str) -> None:
    """Skip what this machine cannot run."""
    try:
        wanted, own = describe("cc", march), describe("cc", "native")
    except GptcError:
        pytest.skip(f"cc does not compile for {march}")
    if lacking := set(wanted.features) - set(own.features):
        pytest.skip(f"this machine has no {min(lacking)}")


def test_avx2_learns_as_the_native_build(workshop: Workshop) -> None:
    """Other vectors add in another order, and that is all."""
    needs("x86-64-v3")
    built, other = workshop.build(), workshop.build(march="x86-64-v3")
    reference, found = losses(built.model()), losses(other.model())
    assert (np.abs(np.subtract(found, reference)) <= allowed(built, reference)).all(), (found, reference)


@pytest.mark.parametrize("march", SETS)
def test_every_call_agrees_with_the_interpreter(workshop: Workshop, march: str) -> None:
    needs(march)
    built = workshop.build(march=march)
    assert check_artefact(built.artefact, built.library).programs == ["evaluate", "step"]


def test_every_kernel_for_avx2() -> None:
    """The tests of single kernels on samples of all ops, and on regions that stress their templates."""
    needs("x86-64-v3")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/codegen/test_kernels.py"]
    variables = {"GPTC_TEST_MARCH": "x86-64-v3", "GPTC_TEST_CFLAGS": "-O1"}  # for the numbers, not the speed
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which(ARM) is None, reason=f"{ARM} is not installed")
def test_neon(workshop: Workshop, tmp_path: Path) -> None:
    """Compiles without a warning; where the emulator is, each call agrees with the interpreter, and it learns."""
    artefact = workshop.compile(compiler=" ".join((ARM, *WARNINGS)), march="armv8-a").artefact
    assert artefact.manifest.build.instructions == "NEON"
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"compiled, but not run: {EMULATOR} is not installed")
    with ChildModel(artefact, tmp_path, [EMULATOR]) as model:
        assert check_model(model).programs == ["evaluate", "step"]
    built = workshop.build()
    reference = losses(built.model(), steps=3)
    with ChildModel(artefact, tmp_path / "again", [EMULATOR]) as model:
        found = losses(model, steps=3)
    assert (np.abs(np.subtract(found, reference)) <= allowed(built, reference)).all(), (found, reference)
