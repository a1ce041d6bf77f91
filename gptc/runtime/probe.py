"""What this machine can do: fused multiply-adds and memory, measured in the run that is compared with them.

The source is `templates/c/probe.c.j2`, rendered by the caller and built as a model's kernels are built.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.contracts import ALIGNMENT
from gptc.errors import InternalError
from gptc.runtime.cache import Cache
from gptc.runtime.hashing import content_hash
from gptc.runtime.machine import last_level_cache
from gptc.runtime.manifest import Build
from gptc.runtime.toolchain import find_compiler, host_cpu

LIBRARY = "probe.so"
REPEATS = 7
FLOATS = 3 << 12
"""Buffers are a multiple of so many floats: of whole rows of any vector width's sums, and of pages."""
SECONDS = 0.02
"""What one turn of the arithmetic probe takes about."""


@dataclass(frozen=True)
class Peaks:
    """The best of several repeats: a limit, not a typical value."""

    gflops: float
    """Fused multiply-adds in f32, two operations each."""
    bf16_gflops: float | None
    """Products of bf16 added in f32; None where the target has no instruction for them."""
    read_gbs: float
    triad_gbs: float
    """Two floats read and one written a turn; what a cache fetches before it writes is not counted."""

    def peak(self, dtype: str) -> float:
        """GFLOP/s of the unit that a kernel which multiplies `dtype` uses; f16 has that of bf16."""
        return self.bf16_gflops if dtype in ("bf16", "f16") and self.bf16_gflops else self.gflops

    @property
    def bandwidth(self) -> float:
        """GB/s: reads alone and the triad differ, and a kernel may do as well as either."""
        return max(self.read_gbs, self.triad_gbs)


class Probe:
    """The built probes.  Their memory is taken for each measurement and given back."""

    def __init__(self, source: str, build: Build, cache: Cache | None = None) -> None:
        path = _build(source, build, cache or Cache())
        self.identity = path.parent.name
        """Of the code: the same on the same machine with the same compiler and flags."""
        self._library = ctypes.CDLL(str(path))
        self._library.gptc_probe_fma.restype = ctypes.c_float
        self._library.gptc_probe_read.restype = ctypes.c_float
        self._turns: dict[str, int] = {}
        self.has_bf16 = hasattr(self._library, "gptc_probe_bf16")
        self._floats = max(256 << 20, 8 * last_level_cache()) // 4 // FLOATS * FLOATS

    @property
    def threads(self) -> int:
        """OpenMP threads that kernels and probes run with."""
        return int(self._library.gptc_probe_threads())

    def measure(self) -> Peaks:
        """About a second of work."""
        room = np.ones(self._floats + ALIGNMENT // 4, np.float32)
        skipped = -room.ctypes.data % ALIGNMENT // 4
        buffer = room[skipped : skipped + self._floats]
        read = buffer.nbytes / _best(partial(self.read, buffer))
        parts = np.split(buffer[: self._floats // 3 // FLOATS * FLOATS * 3], 3)
        triad = 3 * parts[0].nbytes / _best(partial(self._triad, *parts))
        return Peaks(self.gflops("f32"), self.gflops("bf16") if self.has_bf16 else None, read / 1e9, triad / 1e9)

    def gflops(self, dtype: str, repeats: int = REPEATS) -> float:
        """Peak of multiply-adds, of "f32" or, where the target has them, "bf16"."""
        work, kind = (self._fma, "fma") if dtype == "f32" else (self._bf16, "bf16")
        operations = ctypes.c_int64.in_dll(self._library, f"gptc_{kind}_operations").value
        turns = self._turns.get(dtype, 10_000)
        while dtype not in self._turns and _best(partial(work, turns), 1) < SECONDS:
            turns *= 2
        self._turns[dtype] = turns
        return operations * turns * self.threads / _best(partial(work, turns), repeats) / 1e9

    def _fma(self, turns: int) -> None:
        self._library.gptc_probe_fma(ctypes.c_int64(turns), ctypes.c_float(0.5), ctypes.c_float(1.0))

    def _bf16(self, turns: int) -> None:
        self._library.gptc_probe_bf16(ctypes.c_int64(turns))

    def read(self, x: NDArray[np.float32]) -> None:
        """Read an array once, aligned to 64 bytes; its last few floats may be left out."""
        self._library.gptc_probe_read(ctypes.c_void_p(x.ctypes.data), ctypes.c_int64(x.size))

    def _triad(self, *parts: NDArray[np.float32]) -> None:
        places = [ctypes.c_void_p(part.ctypes.data) for part in parts]
        self._library.gptc_probe_triad(*places, ctypes.c_int64(parts[0].size), ctypes.c_float(0.5))


def _best(work: Callable[[], None], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of `repeats`, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _build(source: str, build: Build, cache: Cache) -> Path:
    """The library, from the cache or compiled now."""
    cc = find_compiler(build.compiler, build.compiler, cache)
    flags = [flag for flag in build.flags if not flag.startswith("-I")]

    def compile_probe(folder: Path) -> None:
        path = folder / "probe.c"
        path.write_text(source, encoding="utf-8")
        if complaint := cc.run([*flags, "-fPIC", "-shared", path.name, "-o", LIBRARY], folder):
            raise InternalError.of(f"the probe does not compile with {cc.argv[0]}", None, None, complaint)

    return cache.put(content_hash("probe", cc.identity, host_cpu(), flags, source), compile_probe) / LIBRARY
