"""What the GPU of this process can do: multiply-adds, products of bf16 and memory, timed by its own events.

The sources are those of `gptc.codegen.probes`, rendered by the caller and built as a model's kernels are built.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gptc.errors import InputError, InternalError
from gptc.runtime.cache import Cache
from gptc.runtime.device import driver, this_gpu
from gptc.runtime.hashing import content_hash
from gptc.runtime.library import SMALLER, failure_text
from gptc.runtime.manifest import Build
from gptc.runtime.probe import LIBRARY, REPEATS, SECONDS, Peaks
from gptc.runtime.toolchain import find_compiler

MEMORY = 3 << 29
"""Bytes that are read or written at a time, many times the L2 cache; half of those that are free at most."""
PATTERN = 1 << 20
"""Random numbers that the matrices repeat: on zeros a product is faster than it can be."""


class GpuProbe:
    """The built probes.  Their memory is taken for each measurement and given back."""

    has_bf16 = True

    def __init__(self, files: Mapping[str, str], side: int, build: Build, cache: Cache | None = None) -> None:
        """`side` is that of the matrices which `files` multiply."""
        path = _build(files, build, cache or Cache())
        self.identity = f"{path.parent.name} on {this_gpu().name}"
        """Of the code and the device."""
        self._library = ctypes.CDLL(str(path))
        self._library.gptc_probe_turn.restype = ctypes.c_int64
        self._side = side

    @property
    def threads(self) -> int:
        """Of this process on the CPU."""
        return 1

    @property
    def fits(self) -> bool:
        """Whether there is memory for a product."""
        return bool(this_gpu().free > 6 * self._side**2)

    def measure(self) -> Peaks:
        """About a second of work."""
        size = min(MEMORY, this_gpu().free // 2) // 48 * 48
        memory = driver().mem_alloc(size)
        driver().memset_d32(memory, 0x3F800000, size // 4)  # ones
        read = size / self._best(partial(self._call, "read", self._unused(), memory, size // 4))
        thirds = [int(memory) + part * size // 3 for part in range(3)]
        triad = partial(self._call, "triad", *thirds, size // 12, ctypes.c_float(0.5))
        triad_gbs = size / self._best(triad) / 1e9
        memory.free()
        return Peaks(self.gflops("f32"), self.gflops("bf16"), read / 1e9, triad_gbs)

    def gflops(self, dtype: str, repeats: int = REPEATS) -> float:
        """Peak of multiply-adds in "f32", or of a large product of "bf16"."""
        return self._products(repeats) if dtype == "bf16" else self._multiply_adds(repeats)

    def _multiply_adds(self, repeats: int) -> float:
        turns, unused = 10_000, self._unused()
        while self._best(partial(self._call, "fma", unused, turns), 1) < SECONDS:
            turns *= 2
        operations = self._library.gptc_probe_turn() * turns
        return float(operations / self._best(partial(self._call, "fma", unused, turns), repeats) / 1e9)

    def _products(self, repeats: int) -> float:
        count = self._side**2
        if not self.fits:
            needed, free = 6 * count / 2**20, this_gpu().free / 2**20
            message = f"a product to measure the GPU by takes {needed:,.0f} MiB; {free:,.0f} are free"
            raise InputError.of(message, None, SMALLER)
        pattern = np.random.default_rng(1).standard_normal(PATTERN, np.float32).astype(ml_dtypes.bfloat16)
        matrices = [driver().mem_alloc(2 * count) for _ in range(3)]
        for number, matrix in enumerate(matrices[:2]):
            driver().memcpy_htod(matrix, np.resize(np.roll(pattern, number), count).view(np.uint16))
        seconds = self._best(partial(self._call, "product", *matrices), repeats)
        for matrix in matrices:
            matrix.free()
        return 2 * float(self._side) ** 3 / seconds / 1e9

    def _unused(self) -> Any:
        """Where a probe could write what it never does."""
        return driver().mem_alloc(4)

    def _call(self, probe: str, *arguments: Any) -> None:
        """Queue a probe.  Numbers are addresses or counts."""
        wide = [ctypes.c_int64(int(a)) if not isinstance(a, ctypes.c_float) else a for a in arguments]
        getattr(self._library, f"gptc_probe_{probe}")(*wide)

    def _best(self, work: Callable[[], None], repeats: int = REPEATS) -> float:
        """Seconds of the fastest of `repeats`, after one that does not count."""
        times = []
        for _ in range(1 + repeats):
            first, last = driver().Event(), driver().Event()
            first.record()
            work()
            last.record()
            last.synchronize()
            times.append(float(first.time_till(last)) / 1e3)
        if failure := failure_text(self._library):
            raise InternalError.of(f"a probe failed: {failure}")
        return min(times[1:])


def _build(files: Mapping[str, str], build: Build, cache: Cache) -> Path:
    """The library, from the cache or compiled now."""
    nvcc = find_compiler(build.compiler, build.compiler, cache, "cuda")
    units = sorted(name for name in files if name.endswith(".cu"))

    def compile_probe(entry: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="gptc-probe-") as name:
            for file, text in files.items():
                path = Path(name) / file
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if complaint := nvcc.run([*build.flags, "-shared", *units, "-o", str(entry / LIBRARY)], Path(name)):
                raise InternalError.of(f"the probe does not compile with {nvcc.argv[0]}", None, None, complaint)

    key = content_hash("gpu probe", nvcc.identity, build.flags, sorted(files.items()))
    return cache.put(key, compile_probe) / LIBRARY
