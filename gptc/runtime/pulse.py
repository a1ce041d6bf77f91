"""Signs of life: what every rank of a job tells about itself, and what can be read from all of them together.

A rank keeps a small file up to date: that it lives, how much it has done, whether it waits for the others.  From these
files anybody can say which rank is to blame when a job does not go on.
"""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import signal
import socket
import statistics
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

EVERY = 1.0
"""Seconds between two signs of life."""
STALE = 15.0
"""Seconds without one after which a rank is taken for stopped."""
ASLEEP = 5.0
"""Seconds between two looks at the ranks after which the one that looks has stood still itself."""
PATIENCE = 60.0
TURNS = 10
"""A rank that others wait for may take this many seconds and this many of its usual turns."""


@dataclass(frozen=True)
class Sign:
    """What a rank tells.  Times are seconds since the epoch."""

    rank: int
    pid: int
    host: str
    time: float
    """The last sign of life."""
    turns: int
    """Programs run so far."""
    waits: bool
    since: float
    """When `turns` or `waits` last changed."""
    turn_seconds: float
    """What a turn usually takes."""
    done: bool
    """Whether the rank has nothing left to do."""


FORMAT = struct.Struct("<q64sdq?dd?")
"""The fields of a sign but the first, in a file that its rank has mapped: no write costs more than a few bytes."""


class Pulse:
    """A rank's signs of life.  SIGUSR1 makes the rank print where all its threads are."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / str(rank)
        self.path.write_bytes(bytes(FORMAT.size))
        with self.path.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), FORMAT.size)
        self.host = socket.gethostname().encode()[:64]
        self.turns, self.waits, self.since, self.done = 0, False, time.time(), False
        self.seconds: deque[float] = deque([0.0], maxlen=50)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        self.tell()
        threading.Thread(target=self._beat, name="gptc pulse", daemon=True).start()

    def finish(self) -> None:
        """The rank is about to end, as it should."""
        self.done = True
        self.tell()

    def turn(self) -> None:
        """One more program is done."""
        now = time.time()
        self.seconds.append(now - self.since)
        self.turns, self.since = self.turns + 1, now
        self.tell()

    def goes_on(self) -> None:
        """What keeps the others waiting goes on."""
        self.since = time.time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In this block the rank waits for others."""
        self.waits, self.since = True, time.time()
        self.tell()
        yield  # a rank that leaves by an exception waits no more, but is not to blame either
        self.waits, self.since = False, time.time()
        self.tell()

    def tell(self) -> None:
        usual = statistics.median(self.seconds)
        FORMAT.pack_into(
            self.page, 0, os.getpid(), self.host, time.time(), self.turns, self.waits, self.since, usual, self.done
        )

    def _beat(self) -> None:
        while True:
            time.sleep(EVERY)
            self.tell()


def read_signs(folder: Path, size: int) -> list[Sign]:
    """The last sign of every rank that has given one."""
    signs = []
    for rank in range(size):
        with suppress(FileNotFoundError, struct.error):
            pid, host, *rest = FORMAT.unpack((folder / str(rank)).read_bytes())
            if pid:
                signs.append(Sign(rank, pid, host.rstrip(b"\0").decode(), *rest))
    return signs


class Watcher:
    """Looks at the signs of all ranks now and then.

    Time in which it cannot look, because the machine sleeps or all of the job is stopped, is nobody's fault.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.looked = self.woke = time.time()

    def look(self, deaths: Mapping[int, int] | None = None) -> str | None:
        """What `diagnose` says now."""
        now = time.time()
        if now - self.looked > ASLEEP:
            self.woke = now
        self.looked = now
        signs = read_signs(self.folder, self.size)
        awake = [replace(s, time=max(s.time, self.woke), since=max(s.since, self.woke)) for s in signs]
        return diagnose(awake, now, deaths)


def diagnose(signs: Sequence[Sign], now: float, deaths: Mapping[int, int] | None = None) -> str | None:
    """Which rank keeps the others from going on, and how; None if none does.

    `deaths` tells of processes when they ended, as far as that is known.
    """
    deaths = deaths or {}
    signs = [s for s in signs if not s.done]
    dead = [s for s in signs if s.host == socket.gethostname() and not _lives(s.pid)]
    if dead:  # the launcher ends the others too, while they wait for the first
        first = min(dead, key=lambda s: (deaths.get(s.pid, math.inf), s.waits, s.time))
        return f"rank {first.rank} (process {first.pid}) has died"
    for sign in signs:
        if now - sign.time > STALE:
            return f"rank {sign.rank} (process {sign.pid} on {sign.host}) has given no sign of life for {STALE:.0f} s"
    waiting = [s for s in signs if s.waits]
    limit = PATIENCE + TURNS * max((s.turn_seconds for s in signs), default=0)
    if not waiting or now - max(s.since for s in waiting) < limit:
        return None
    stuck = [s for s in signs if not s.waits and now - s.since > limit]
    if len(waiting) == len(signs):
        return f"all ranks have waited for each other for {limit:.0f} s"
    names = ", ".join(f"rank {s.rank} (process {s.pid} on {s.host})" for s in stuck)
    return f"{names} has kept the others waiting for {limit:.0f} s, after {stuck[0].turns} programs" if stuck else None


def _lives(pid: int) -> bool:
    """Whether a process of this machine is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
