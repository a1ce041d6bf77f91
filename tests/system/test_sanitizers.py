"""Emitted code under other eyes: the sanitizers' at run time, and a second compiler's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gptc.check import check_artefact, check_model
from gptc.runtime.artefact import open_artefact
from gptc.runtime.shard import write_shard
from tests.conftest import WARNINGS
from tests.system.child import ChildModel
from tests.system.workshop import NEEDS_BF16, Workshop, make, run_native

STEPS = 20


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16)])
def test_training_under_the_sanitizers(workshop: Workshop, tmp_path: Path, precision: str) -> None:
    """Odd sizes, so that the edges of every tile are walked: no report from address, leak or undefined behaviour.

    In bf16 a step is one program, in f32 two.  Then in f32 again with a kernel that writes to memory it has freed, to
    see that the sanitizers are at work.
    """
    options = {"compiler": "cc", "sanitize": True, "precision": precision}
    artefact = workshop.compile(batch=1, seq=13, micro=2 if precision == "f32" else 1, **options).artefact
    folder = make(artefact, tmp_path, "train")
    shard = tmp_path / "tokens.bin"
    write_shard(shard, np.random.default_rng(5).integers(0, 61, 2000))
    saved = tmp_path / "weights.safetensors"
    done = run_native(folder, "--data", str(shard), "--steps", str(STEPS), "--val-every", "7", "--save", str(saved))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^step \d+: train loss", done.stdout, re.MULTILINE)) == STEPS
    if precision != "f32":
        return

    (kernel,) = folder.glob("kernels/sum_squares_*.c")
    text = kernel.read_text()
    assert "partial[c] = sum;" in text
    kernel.write_text(text.replace("partial[c] = sum;", "free(partial), partial[c] = sum;"))
    subprocess.run(["make", "train"], cwd=folder, check=True, capture_output=True)
    done = run_native(folder, "--data", str(shard), "--steps", "1")
    assert done.returncode != 0
    assert "heap-use-after-free" in done.stderr


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16), "int8"])
def test_generating_under_the_sanitizers(workshop: Workshop, tmp_path: Path, precision: str) -> None:
    """Every call of `prefill` and `decode`, compared with the interpreter."""
    options = {"compiler": "cc", "sanitize": True, "precision": precision, "mode": "infer"}
    with ChildModel(workshop.compile(batch=3, seq=7, **options).artefact, tmp_path) as model:
        assert check_model(model).programs == ["prefill", "decode"]


def test_clang_agrees(workshop: Workshop, tmp_path: Path) -> None:
    """Library and trainer build without a warning (gcc's do in every test here), and the library is right."""
    if not has_openmp("clang"):
        pytest.skip("no clang with OpenMP on this machine")
    compiler = " ".join(("clang", *WARNINGS))
    folder = make(workshop.compile(compiler=compiler).artefact, tmp_path)
    agreement = check_artefact(open_artefact(folder), folder / "libmodel.so")
    assert agreement.programs == ["evaluate", "step"]


def has_openmp(compiler: str) -> bool:
    if shutil.which(compiler) is None:
        return False
    command = [compiler, "-fopenmp", "-x", "c", "-", "-o", "/dev/null"]
    source = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 0; }"
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0
