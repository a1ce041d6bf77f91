"""The machine under a measurement: what it is, and what else it was doing."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptc.runtime.toolchain import cpu_name

BUSY = 0.5
"""Share of the machine that others may use before a measurement says so."""
LLC = 32 << 20
"""Bytes of the last cache where the system does not tell."""


@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    cpu: str
    cores: int
    threads: int
    memory: int
    """Bytes."""
    system: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads} on {self.cores} cores of {self.cpu}, {self.memory / 2**30:,.0f} GiB"


def this_machine(threads: int) -> Machine:
    cpu = cpu_name() or platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(cpu, os.cpu_count() or 1, threads, memory, f"{platform.system()} {platform.release()}")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_level_cache() -> int:
    """Bytes of the largest cache that the first core sees."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text or 0))
    return max(sizes) or LLC


def peak_rss() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Neighbours:
    """Cores that other processes used since this was made.  Counts time, so our own threads are no part of it."""

    def __init__(self) -> None:
        self._began = (time.perf_counter(), _busy(), time.process_time())

    def cores(self) -> float | None:
        """None where the system does not tell (it has no /proc/stat)."""
        clock, busy, own = self._began
        now = _busy()
        if busy is None or now is None:
            return None
        others = (now - busy) - (time.process_time() - own)
        return max(0.0, others) / max(1e-3, time.perf_counter() - clock)


def warning(neighbours: float | None) -> str | None:
    """What to say about a machine that was not ours alone."""
    cores = os.cpu_count() or 1
    if neighbours is None:
        return "what else ran on this machine is not known"
    if neighbours > BUSY * cores:
        return f"the machine was busy: others used {neighbours:.1f} of {cores} cores"
    return None


def _busy() -> float | None:
    """Seconds that all cores together have worked since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / float(os.sysconf("SC_CLK_TCK"))
