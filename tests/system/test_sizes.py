"""Sizes that no vector and no tile divides: one of everything, primes, one more than a vector."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptc.check import check_artefact
from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from tests.cli.command import gptc, one_object
from tests.system.workshop import NEEDS_BF16, STRICT, TINY, Workshop

PRIMES = ("dims.C=63", "dims.H=3", "dims.V=101", "dims.T=7", "dims.L=1")
"""And their products: heads of 21."""
ODD = (
    ("dims.C=1", "dims.H=1", "dims.V=2", "dims.T=1", "dims.L=1"),
    PRIMES,
    ("dims.C=51", "dims.H=3", "dims.V=257", "dims.T=67", "dims.L=1"),
)


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16)])
def test_every_call_of_two_steps(workshop: Workshop, precision: str) -> None:
    for dims in ODD:
        seq = int(dims[3].removeprefix("dims.T="))
        request = Request(TINY, Options(compiler=STRICT, precision=precision), dims, 1 if seq == 1 else 3, seq)
        compiled = compile_model(request, workshop.root / "build", workshop.cache)
        library = build_model(compiled, workshop.cache).library
        checked = check_artefact(compiled.artefact, library, 3).programs
        assert sorted(checked) == sorted(p.name for p in compiled.artefact.manifest.programs), dims


@pytest.mark.parametrize(("precision", "kept"), [("f32", "int8"), pytest.param("bf16", "bf16", marks=NEEDS_BF16)])
def test_from_the_command_line(workshop: Workshop, tmp_path: Path, precision: str, kept: str) -> None:
    """A model learns to count, each call of it is right when it writes, and it counts with narrow weights."""
    (tmp_path / "text.txt").write_bytes(bytes(range(50)) * 40)
    cache = str(workshop.root / "cache")
    model = (TINY, *(word for size in PRIMES for word in ("--set", size)), "--seq", "7", "--compiler", STRICT, "--json")
    training = ("--batch", "3", "--steps", "200", "--lr", "0.01", "--data", "text.txt", "--run", "run")
    done = gptc(tmp_path, "train", *model, *training, "--precision", precision, "--threads", "3", GPTC_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr
    told = gptc(tmp_path, "diff", *model, "--precision", kept, "--mode", "infer", "--batch", "1", GPTC_CACHE_DIR=cache)
    assert one_object(told)["ok"]
    asked = ("--weights", "run/weights.safetensors", "--prompt", "\t\n", "--tokens", "12", "--temperature", "0")
    told = gptc(tmp_path, "generate", *model, "--precision", kept, *asked, GPTC_CACHE_DIR=cache)
    assert one_object(told)["tokens"] == list(range(11, 23))
