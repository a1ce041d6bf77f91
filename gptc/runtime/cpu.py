"""Run a CPU artefact in this process: its library through ctypes, its memory as NumPy views.

Memory is four anonymous mappings, zero at the start, so page-aligned and only backed where touched.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.contracts import SEGMENTS, Segment
from gptc.errors import InputError, ToolMissing
from gptc.runtime.artefact import Artefact
from gptc.runtime.hooks import Exchange, Guard, set_hooks
from gptc.runtime.library import AFTER, SMALLER, Memory, Views, entry_point
from gptc.runtime.machine import cores
from gptc.runtime.manifest import Param, Tensor

WORD = 8
"""Bytes of the numbers that checksums add up."""
CROWD = 8
"""Threads on a core that still end in about the time of one; a hundred would take a hundred times as long."""
SPIN = "2000"
"""Turns that a thread waits for the next kernel before it sleeps: a few microseconds."""


class CpuModel:
    """A loaded artefact with its own memory.  Not for use from two threads at once: the hook is the library's."""

    def __init__(self, artefact: Artefact, library: Path) -> None:
        if artefact.manifest.target != "c":
            raise InputError.of(f"{artefact.folder.name} is for target {artefact.manifest.target!r}, not 'c'")
        self.artefact = artefact
        self._library = _load(library, artefact)
        _check_processor(self._library, artefact)
        if hasattr(self._library, "omp_get_max_threads"):  # what OMP_NUM_THREADS says
            _check_threads(self._library.omp_get_max_threads())
        self._programs = {p.name: entry_point(self._library, p.function) for p in artefact.manifest.programs}
        _check_memory(artefact)
        self._segments = {name: _allocate(artefact.manifest.segments[name]) for name in SEGMENTS}
        self._memory = Memory(*(segment.ctypes.data for segment in self._segments.values()))
        self._views = Views(artefact, self._view)
        self._after = ctypes.c_void_p.in_dll(self._library, "gptc_after")
        self._hook: Callable[[int], None] | None = None
        self._guard = Guard()
        self.running = ""
        """The program that runs, or ran last."""
        self._trampoline = AFTER(self._call_hook)
        self._hooks: Sequence[object] = ()

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A tensor in place, padding included: writes go to the model's memory."""
        return self._views[name]

    def valid(self, param: Param) -> NDArray[Any]:
        """The part of a parameter that is not padding, in place."""
        return self.leading(param.name, param.valid)

    def leading(self, name: str, extents: Sequence[int]) -> NDArray[Any]:
        """The first elements of a tensor, so many along each axis, in place."""
        return self[name][tuple(slice(extent) for extent in extents)]

    def segment(self, name: Segment) -> NDArray[np.uint8]:
        """The raw bytes of a segment, in place: "params", "state", "io" or "arena"."""
        self._views.hand_out(name)
        return self._segments[name]

    def peek(self, name: Segment, offset: int, size: int) -> NDArray[np.uint8]:
        """Bytes of a segment, only to be read."""
        return self._segments[name][offset : offset + size]

    def checksums(self, tensors: Sequence[Tensor]) -> list[int]:
        """Of each tensor: its bytes as 64-bit numbers, those behind the last one by one, added up modulo 2^64."""
        found = []
        for tensor in tensors:
            raw, words = self.peek(tensor.segment, tensor.offset, tensor.nbytes), tensor.nbytes // WORD * WORD
            total = int(raw[:words].view(np.uint64).sum(dtype=np.uint64)) + int(raw[words:].sum())
            found.append(total % 2 ** (8 * WORD))
        return found

    def run(self, program: str) -> None:
        """Run one program to its end.  What the hook raised is raised here.

        Parameters that were handed out may have been written since: then their copies are made anew first.
        """
        self.running = self.artefact.program(program).name
        function = self._programs[self.running]
        if self._views.stale:
            self._views.stale, self._after.value = False, None
            self._programs["refresh"](ctypes.byref(self._memory))
        self._after.value = ctypes.cast(self._trampoline, ctypes.c_void_p).value if self._hook else None
        function(ctypes.byref(self._memory))
        self._guard.release()

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        """Call `hook(n)` after kernel call n of each program that runs from now on; None ends it."""
        self._hook = hook

    def time_calls(self, program: str) -> list[float]:
        """Milliseconds of each kernel call of one run: from the end of the one before, or from the start."""
        times: list[float] = []
        self.on_call(lambda call: times.append(time.perf_counter()))
        began = time.perf_counter()
        try:
            self.run(program)
        finally:
            self.on_call(None)
        return [1e3 * (after - before) for before, after in pairwise([began, *times])]

    def on_exchange(self, exchange: Exchange) -> None:
        """Let programs do with other ranks, through `exchange`, what they do together.  It is called by the thread that
        called `run`, where what it raises is raised."""
        self._hooks = set_hooks(self._library, self.artefact, exchange, self._guard)

    def set_threads(self, n: int) -> None:
        """Use n OpenMP threads from now on.  The results do not depend on it."""
        _check_threads(n)
        try:
            self._library.omp_set_num_threads(n)
        except AttributeError:
            if n > 1:
                hint = "compile the model again with OpenMP"
                raise InputError.of(f"{self.artefact.folder.name} was built for one thread", None, hint) from None

    def _call_hook(self, call: int) -> None:
        if (hook := self._hook) is not None:
            self._guard(lambda: hook(call))

    def _view(self, tensor: Tensor) -> NDArray[Any]:
        raw = self._segments[tensor.segment][tensor.offset : tensor.offset + tensor.nbytes]
        return raw.view(tensor.numpy_dtype).reshape(tensor.shape)


def _load(library: Path, artefact: Artefact) -> ctypes.CDLL:
    # Threads that wait between kernels spin, by default so long that a second busy process on the machine costs a
    # factor of ten.  The OpenMP runtime reads this once, when it is loaded; what the user has set stays.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        made = artefact.manifest.build
        hint = (
            f"it was built by {made.compiler} for {made.instructions}: is that this machine, with its OpenMP runtime?"
        )
        raise ToolMissing.of(f"cannot load {library.name}: {error}", None, hint) from None


def _check_processor(library: ctypes.CDLL, artefact: Artefact) -> None:
    """Refuse what would end in an illegal instruction."""
    missing = library.gptc_missing
    missing.restype = ctypes.c_char_p
    if lacking := missing():
        message = f"{artefact.folder.name} needs a processor with {lacking.decode()}, which this one lacks"
        refused = "; where the system refuses its use, with --march cooperlake" if lacking == b"amx-bf16" else ""
        raise ToolMissing.of(message, None, f"compile the model with --march native{refused}")


def _check_threads(n: int) -> None:
    most = CROWD * cores()
    if not 1 <= n <= most:
        hint = "each core needs one; without --threads and OMP_NUM_THREADS it gets it"
        raise InputError.of(f"{n} threads: must be in 1..{most} on {cores()} cores", None, hint)


def _check_memory(artefact: Artefact) -> None:
    """Refuse what this machine cannot hold, before the kernel has to kill someone for it."""
    need = sum(artefact.manifest.segments.values())
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        sizes = f"needs {need / 2**30:,.1f} GiB of memory; this machine has {have / 2**30:,.1f}"
        raise InputError.of(f"{artefact.manifest.model} {sizes}", None, SMALLER)


def _allocate(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes; at least one page, so that every segment has an address."""
    length = max(1, math.ceil(size / mmap.PAGESIZE)) * mmap.PAGESIZE
    try:
        mapping = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets no huge pages
    except (OSError, OverflowError):
        raise InputError.of(f"cannot get {length / 2**30:,.1f} GiB of memory", None, SMALLER) from None
    with suppress(AttributeError, OSError):  # advice only: fewer TLB misses over segments of hundreds of MB
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, np.uint8)[:size]
