"""Sizes that no vector and no tile divides, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.cli.command import gptc, one_object
from tests.system.workshop import NEEDS_BF16

SIZES = ("V=101", "C=63", "H=3", "L=1", "T=7")
MODEL = ("gpt2-nano", *(word for size in SIZES for word in ("--set", f"dims.{size}")), "--seq", "7")


@pytest.mark.parametrize(
    ("precision", "batch", "kept"), [("f32", 1, "int8"), pytest.param("bf16", 3, "bf16", marks=NEEDS_BF16)]
)
def test_primes_and_one(home: Path, precision: str, batch: int, kept: str) -> None:
    """A model learns to count, for any number of threads the same; each call is right; narrow weights will do."""
    flags = (*MODEL, "--batch", str(batch), "--precision", precision)
    weights = []
    for threads in ("1", "3"):
        run = f"{precision}-{threads}"
        options = ("--steps", "400", "--lr", "0.01", "--threads", threads, "--run", run, "--json")
        done = gptc(home, "train", *flags, "--data", "text.txt", *options)
        assert done.returncode == 0, done.stderr
        weights.append(load_file(home / run / "weights.safetensors"))
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert one_object(gptc(home, "diff", *flags, "--json"))["ok"]

    generating = (*MODEL, "--precision", kept)
    assert one_object(gptc(home, "diff", *generating, "--mode", "infer", "--batch", str(batch), "--json"))["ok"]
    options = ("--prompt", "\t\n", "--tokens", "12", "--temperature", "0", "--json")
    trained = Path(f"{precision}-3", "weights.safetensors")
    written = one_object(gptc(home, "generate", *generating, "--weights", trained, *options))
    assert written["tokens"] == list(range(11, 23))
