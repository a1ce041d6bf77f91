"""A rank that dies, stops, hangs or fails ends the job soon, and the job says which it was."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime import job, pulse
from gptc.runtime.launch import find_launcher
from tests.awake import Awake

pytest.importorskip("mpi4py", reason="ranks need mpi4py")
pytestmark = pytest.mark.skipif(find_launcher() is None, reason="ranks need mpiexec")

ROOT = Path(__file__).parents[2]
LIMIT = 20.0
"""Seconds for a job that takes one when nothing goes wrong, with the patience of these tests."""
LEAVING = 5.0
"""Seconds for processes that were killed to be gone."""


MARK = "GPTC_TEST_JOB"
"""Variable by which the processes of one test are known from those of another, and of another run of the tests."""


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """With little patience."""
    monkeypatch.setattr(pulse, "PATIENCE", 6.0)
    monkeypatch.setattr(pulse, "STALE", 3.0)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(MARK, uuid.uuid4().hex)
    return os.environ[MARK]


def faulty(kind: str, rank: int, size: int) -> int:
    return job.run_ranks(size, ["-m", "tests.ranks.faulty", kind, str(rank)])


def survivors(mark: str) -> list[str]:
    """Commands of processes of the job that are still there, some seconds after its end."""
    found: list[str] = []
    with Awake() as clock:
        while clock.seconds < LEAVING:
            found = [command for command, variables in others() if f"{MARK}={mark}".encode() in variables]
            if not found:
                break
            time.sleep(0.05)
    return found


def others() -> Iterator[tuple[str, list[bytes]]]:
    """Command and environment of every other process; of one that has ended, and is not taken note of, none."""
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name != str(os.getpid()):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield command, (entry / "environ").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    ("kind", "rank", "size", "told"),
    [
        ("kill", 1, 2, r"rank 1 \(process \d+\) has died"),
        ("stop", 2, 3, r"rank 2 \(process \d+ on .*\) has given no sign of life"),
        ("sleep", 0, 2, r"rank 0 \(process \d+ on .*\) has kept the others waiting"),
        ("write", 1, 2, r"all ranks have waited for each other"),
    ],
)
def test_the_rank_is_named(kind: str, rank: int, size: int, told: str, mark: str) -> None:
    with Awake() as clock, pytest.raises(StorageError, match=told):
        faulty(kind, rank, size)
    assert clock.seconds < LIMIT
    assert not survivors(mark)


def test_an_error_keeps_its_exit_code(capfd: pytest.CaptureFixture[str], mark: str) -> None:
    assert faulty("error", 1, 2) == InputError.code
    said = capfd.readouterr().err
    assert "a planted error" in said
    assert "rank 1" in said
    assert not survivors(mark)


def test_an_exception_ends_all(capfd: pytest.CaptureFixture[str], mark: str) -> None:
    assert faulty("raise", 0, 2) != 0
    assert "a planted fault" in capfd.readouterr().err
    assert not survivors(mark)


def test_a_job_without_faults_ends_well() -> None:
    assert faulty("none", 0, 2) == 0
