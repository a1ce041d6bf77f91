"""Who is to blame when a job does not go on: told from signs of life, and not from one's own sleep."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from gptc.runtime import pulse
from gptc.runtime.job import Deaths
from gptc.runtime.pulse import FORMAT, PATIENCE, STALE, Sign, Watcher

NOTHING = (0.0, 0, False, 0.0, 0.0, False)
"""What a sign says beside who gave it."""


class Clock:
    """The time that the watcher sees."""

    now = 1e6

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pulse, "time", made)
    return made


def tell(folder: Path, rank: int, time: float, waits: bool, since: float) -> None:
    host = socket.gethostname().encode()[:64]
    (folder / str(rank)).write_bytes(FORMAT.pack(os.getpid(), host, time, 7, waits, since, 0.1, False))


def test_a_rank_that_stops_is_named_and_sleep_is_nobodys_fault(tmp_path: Path, clock: Clock) -> None:
    watcher, began = Watcher(tmp_path, 2), clock.now
    for rank in range(2):
        tell(tmp_path, rank, began, waits=rank == 1, since=began)
    clock.now = began + 8 * 3600  # neither the watcher nor the ranks have run
    assert watcher.look() is None
    woke = clock.now
    while clock.now < woke + PATIENCE + 5:
        clock.now += 1
        for rank in range(2):
            tell(tmp_path, rank, clock.now, waits=rank == 1, since=began)
        told = watcher.look()
    assert told is not None
    assert told.startswith("rank 0")
    assert "has kept the others waiting" in told
    while clock.now < woke + PATIENCE + 5 + STALE + 2:
        clock.now += 1
        tell(tmp_path, 1, clock.now, waits=True, since=began)
        told = watcher.look()
    assert told is not None
    assert "rank 0" in told
    assert "no sign of life" in told


def test_deaths_are_told_in_their_order_however_late_one_looks() -> None:
    rng = random.Random(0)
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(8)]
    numbers = [process.pid for process in processes]
    unseen, deaths = numbers[3], Deaths()
    processes[3].kill()
    processes[3].wait()  # before anybody watches
    deaths.watch([Sign(rank, number, socket.gethostname(), *NOTHING) for rank, number in enumerate(numbers)])
    numbers.remove(unseen)
    rng.shuffle(numbers)
    for number in numbers:
        os.kill(number, signal.SIGKILL)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    deaths.wait(1.0)
    assert sorted(deaths.order, key=deaths.order.__getitem__) == [unseen, *numbers]
    for process in processes:
        process.wait()
