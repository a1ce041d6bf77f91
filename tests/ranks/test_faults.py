"""A rank that dies, stops, hangs or fails ends the job soon, and the job says which it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime import job, pulse
from gptc.runtime.launch import find_launcher

pytest.importorskip("mpi4py", reason="ranks need mpi4py")
pytestmark = pytest.mark.skipif(find_launcher() is None, reason="ranks need mpiexec")

ROOT = Path(__file__).parents[2]
LIMIT = 20.0
"""Seconds for a job that takes one when nothing goes wrong, with the patience of these tests."""


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "PATIENCE", 6.0)
    monkeypatch.setattr(pulse, "STALE", 3.0)
    monkeypatch.chdir(ROOT)


def faulty(kind: str, rank: int, size: int) -> int:
    return job.run_ranks(size, ["-m", "tests.ranks.faulty", kind, str(rank)])


def survivors() -> list[str]:
    """Processes of such jobs that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "tests.ranks.faulty" in command:
                found.append(command)
    return found


@pytest.mark.parametrize(
    ("kind", "rank", "size", "told"),
    [
        ("kill", 1, 2, r"rank 1 \(process \d+\) has died"),
        ("stop", 2, 3, r"rank 2 \(process \d+ on .*\) has given no sign of life"),
        ("sleep", 0, 2, r"rank 0 \(process \d+ on .*\) has kept the others waiting"),
        ("write", 1, 2, r"all ranks have waited for each other"),
    ],
)
def test_the_rank_is_named(kind: str, rank: int, size: int, told: str) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match=told):
        faulty(kind, rank, size)
    assert time.monotonic() - began < LIMIT
    assert not survivors()


def test_an_error_keeps_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert faulty("error", 1, 2) == InputError.code
    said = capfd.readouterr().err
    assert "a planted error" in said
    assert "rank 1" in said
    assert not survivors()


def test_an_exception_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert faulty("raise", 0, 2) != 0
    assert "a planted fault" in capfd.readouterr().err
    assert not survivors()


def test_a_job_without_faults_ends_well() -> None:
    assert faulty("none", 0, 2) == 0
