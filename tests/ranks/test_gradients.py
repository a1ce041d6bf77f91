"""Ranks with a share of the batch each train as one rank with all of it, and repeat to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.errors import NumericsError
from gptc.runtime.launch import find_launcher
from tests.ranks.job import BATCH, LENGTH
from tests.system.workshop import TINY, Workshop

pytest.importorskip("mpi4py", reason="ranks need mpi4py")
LAUNCHER = find_launcher()
pytestmark = pytest.mark.skipif(LAUNCHER is None, reason="ranks need mpiexec")

ROOT = Path(__file__).parents[2]
SEED = 5


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("shop"))


def start(size: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m mpi4py ARGV` as so many ranks."""
    assert LAUNCHER is not None
    return subprocess.run(
        LAUNCHER.command(size, [sys.executable, "-m", "mpi4py", *argv]),
        cwd=ROOT,
        env=os.environ | LAUNCHER.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run(folder: Path, size: int, shards: int = 1) -> list[dict[str, Any]]:
    """What each rank prints, in their order."""
    done = start(size, "-m", "tests.ranks.job", str(folder), str(SEED), str(shards))
    assert done.returncode == 0, done.stderr
    found = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["rank"])
    assert [each["rank"] for each in found] == list(range(size))
    return found


def test_ranks_are_one(shop: Workshop) -> None:
    for size in (1, 2, 4):
        shop.build(TINY, BATCH // size, LENGTH, ranks=True)
        shop.build(TINY, BATCH // size, LENGTH, ranks=True, shards=size)
    alone, *_ = run(shop.root, 1)
    for size in (2, 4):
        first = run(shop.root, size)
        assert len({(each["weights"], *each["losses"], each["norm"]) for each in first}) == 1, "ranks disagree"
        assert all(each["moved"] == [False, False, True] for each in first), "ranks do not skip together"
        assert min(first[0]["shares"]) < 1 - 1e-5, "no rank would have made the update by itself"
        # Sums of B/R and then of R terms instead of B: a few roundings a step, which training does not magnify much.
        np.testing.assert_allclose(first[0]["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose(first[0]["norm"], alone["norm"], rtol=1e-4)
        divided = run(shop.root, size, shards=size)
        assert divided == first, "state that is divided gives other bits, or a second run"


@pytest.mark.parametrize(
    ("size", "odd"),
    [(2, "the ranks have different weights"), (3, "the weights of rank 1 are not those of the other 2 ranks")],
)
def test_a_flipped_bit_is_found(shop: Workshop, size: int, odd: str) -> None:
    shop.build(TINY, BATCH // 2, LENGTH, ranks=True)
    done = start(size, "-m", "tests.ranks.flipped", str(shop.root), str(BATCH // 2), "1")
    assert done.returncode == NumericsError.code, done.stderr
    assert f"error: step 10: {odd}; the first tensor that differs is " in done.stderr
