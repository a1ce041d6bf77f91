"""Ranks on GPUs: what is told where they cannot be, and where they can, that they train as one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.errors import StorageError, ToolMissing
from gptc.runtime import job, nccl, pulse
from gptc.runtime.device import driver
from gptc.runtime.dist import gpu_of_two
from gptc.runtime.hooks import joined
from gptc.runtime.launch import LOCAL, find_launcher, local_rank
from tests.cli.command import gptc
from tests.cuda.ranks_job import BATCH, LENGTH, MODEL
from tests.system.workshop import TINY, Workshop

ROOT = Path(__file__).parents[2]
LAUNCHER = find_launcher()


def gpus() -> int:
    try:
        return int(driver().Device.count())
    except ToolMissing:
        return 0


GPUS = gpus()
LIMIT = 60.0
"""Seconds for a job to begin, go wrong and end, with the patience of these tests."""
needs_gpus = pytest.mark.skipif(GPUS < 2 or LAUNCHER is None, reason="needs two CUDA devices and an MPI launcher")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def test_no_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nccl.bindings.nccl", None)
    nccl._bindings.cache_clear()
    with pytest.raises(ToolMissing, match="ranks on GPUs need NCCL") as caught:
        nccl.new_id()
    assert "gptc[nccl]" in (caught.value.diagnostics[0].hint or "")


def test_ranks_that_share_a_gpu_are_named() -> None:
    places = [("one", "0000:01"), ("one", "0000:02"), ("two", "0000:01"), ("one", "0000:02")]
    assert gpu_of_two(places[:3], "a GPU") is None
    error = gpu_of_two(places, "a GPU")
    assert error is not None
    assert "ranks 1 and 3 have one GPU (a GPU 0000:02 of one)" in str(error)
    assert "--collectives host" in str(error)


def test_neighbours_travel_as_one() -> None:
    assert joined([1000, 64, 72, 1020], [5, 2, 4, 1]) == [(64, 6), (1000, 6)]
    assert joined([1000, 64, 76], [5, 2, 4]) == [(64, 2), (76, 4), (1000, 5)]


def test_small_tensors_travel_by_themselves() -> None:
    small, large = (1, 2, nccl.SMALL - 1), (3, 4, nccl.SMALL)
    assert nccl.alike([large, small, large]) == [[small], [large, large]]
    assert nccl.alike([small]) == [[small]]


@pytest.mark.parametrize("name", LOCAL)
def test_a_rank_knows_its_place_among_those_of_its_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in LOCAL:
        monkeypatch.delenv(each, raising=False)
    assert local_rank() == 0
    monkeypatch.setenv(name, "3")
    assert local_rank() == 3


def test_collectives_are_for_gpus(tmp_path: Path) -> None:
    done = gptc(tmp_path, "train", TINY, "--ranks", "2", "--collectives", "host")
    assert done.returncode == 2
    assert "--collectives is for ranks on GPUs" in done.stderr


@needs_nvcc
def test_programs_reach_the_exchange(tmp_path: Path) -> None:
    """Gradients leave the backward pass through hooks that are part of the library, of ranks alone."""
    shop = Workshop(tmp_path)
    folders = [
        shop.compile(TINY, 2, 16, target="cuda", march="sm_80", ranks=ranks, shards=shards).artefact.folder
        for ranks, shards in ((False, 1), (True, 1), (True, 2))
    ]
    alone, ranks, divided = ((folder / "programs" / "step.c").read_text() for folder in folders)
    assert ranks.index("all_reduce_begin_") < ranks.index("all_reduce_end_") < ranks.index("own_squares_")
    steps = ("reduce_scatter_begin_", "reduce_scatter_end_", "own_squares_", "own_share_", "adamw_", "all_gather_")
    assert sorted(steps, key=divided.index) == list(steps)
    assert "all_reduce" not in alone
    assert [(folder / "programs" / "ranks.c").exists() for folder in folders] == [False, True, True]
    assert [(folder / "train.py").exists() for folder in folders] == [True, True, False]


def run(folder: Path, size: int, *arguments: str) -> list[dict[str, Any]]:
    """What each rank prints."""
    assert LAUNCHER is not None
    command = [sys.executable, "-m", "mpi4py", "-m", "tests.cuda.ranks_job", str(folder), *arguments]
    done = subprocess.run(
        LAUNCHER.command(size, command), cwd=ROOT, env=os.environ | LAUNCHER.environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(each["rank"] for each in found) == list(range(size))
    return found


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all that `ranks_job` loads is built: of a model whose tensors no number of ranks divides evenly."""
    folder = tmp_path_factory.mktemp("jobs")
    model = folder / MODEL
    model.write_text(TINY.read_text().replace("C: 32 ", "C: 40 "))
    shop = Workshop(folder)
    for size, shards in ((1, 1), (2, 1), (2, 2), (4, 4)):
        shop.build(model, BATCH // size, LENGTH, target="cuda", ranks=True, shards=shards)
    return folder


@needs_gpus
def test_ranks_are_one(jobs: Path) -> None:
    alone, *_ = run(jobs, 1, "nccl", "1")
    ways = [("nccl", "1"), ("nccl", "1", "plain"), ("host", "1"), ("nccl", "2"), ("nccl", "2"), ("host", "2")]
    found = [run(jobs, 2, *way) for way in ways]
    # Two numbers have one sum and half of it is exact, so every way of exchanging them gives the same bits.
    assert len({ranks[0]["weights"] for ranks in found}) == 1
    for ranks in (*found, run(jobs, 4, "host", "4")):
        assert len({(each["weights"], *each["sums"], *each["losses"], each["norm"]) for each in ranks}) == 1
        np.testing.assert_allclose(ranks[0]["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose(ranks[0]["norm"], alone["norm"], rtol=1e-4)
        divided = ranks[0]["moments"] < alone["moments"]
        assert sum(each["moments"] for each in ranks) == alone["moments"] * (1 if divided else len(ranks))
    assert [ranks[0]["moments"] < alone["moments"] for ranks in found] == [way[1] == "2" for way in ways]


@needs_gpus
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("kill", r"rank 1 \(process \d+\) has died"),
        ("stop", r"rank 1 \(process \d+ on .*\) has given no sign of life"),
        ("sleep", r"rank 1 \(process \d+ on .*\) has kept the others waiting"),
        ("raise", "a planted fault"),
    ],
)
def test_a_rank_that_goes_wrong_is_named(
    jobs: Path, kind: str, told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the others wait in kernels of NCCL, which never give up by themselves."""
    monkeypatch.setattr(pulse, "PATIENCE", 6.0)
    monkeypatch.setattr(pulse, "STALE", 3.0)
    monkeypatch.chdir(ROOT)
    began, said = time.monotonic(), ""
    try:
        assert job.run_ranks(2, ["-m", "tests.cuda.ranks_job", str(jobs), "nccl", "2", kind]) != 0
    except StorageError as error:
        said = str(error)
    assert time.monotonic() - began < LIMIT
    assert re.search(told, said + capfd.readouterr().err)


@needs_gpus
def test_more_ranks_than_gpus(tmp_path: Path) -> None:
    flags = ("--target", "cuda", "--ranks", str(GPUS + 1), "--steps", "3", "--batch", "2", "--seq", "16")
    done = gptc(tmp_path, "train", "gpt2-nano", *flags)
    assert done.returncode == 1
    assert done.stderr.count("have one GPU") == 1, done.stderr
    done = gptc(tmp_path, "train", "gpt2-nano", *flags, "--collectives", "host")
    assert done.returncode == 0, done.stderr


@needs_gpus
def test_resumed_is_undisturbed(tmp_path: Path) -> None:
    """With the state divided or not, before and afterwards; and on another number of ranks."""
    flags = ["--target", "cuda", "--precision", "bf16", "--seq", "64", "--val-every", "0", "--steps", "40"]
    two, zero = ["--ranks", "2", "--batch", "2"], ["--ranks", "2", "--batch", "2", "--zero", "1"]
    cut = ["--save-every", "20", "--keep-last", "0"]
    on = ["--resume", "20"]
    for more in ([*two, "--run", "whole"], [*zero, "--run", "cut", *cut], [*zero, "--run", "cut", *on]):
        told = trained(tmp_path, *flags, *more)
    assert "going on from" in told
    expected = weights(tmp_path, "whole")
    assert weights(tmp_path, "cut") == expected
    trained(tmp_path, *flags, *two, "--run", "cut", *on)
    assert weights(tmp_path, "cut") == expected
    assert "going on from" in trained(tmp_path, *flags, "--batch", "4", "--run", "cut", *on)


def trained(folder: Path, *flags: str) -> str:
    """What `gptc train` says."""
    done = gptc(folder, "train", "gpt2-nano", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder: Path, run: str) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in load_file(folder / run / "weights.safetensors").items()}
