"""Run a CUDA artefact: its library through ctypes, its memory on the device through pycuda.

The library queues kernels on one stream of the primary context; `run` returns when they have ended.  The four
segments are one allocation each, zero at the start.  The only importer of pycuda.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, InternalError, ToolMissing
from gptc.runtime.artefact import Artefact
from gptc.runtime.cpu import AFTER, SMALLER, Memory, symbol
from gptc.runtime.manifest import SEGMENTS, Param, Segment, Tensor

FAILURE_BYTES = 256
"""Of `gptc_failure` in the library."""


class DeviceTensor:
    """A tensor on the device.  Reading copies it to the host, assigning to a part copies it back."""

    def __init__(self, driver: Any, address: int, tensor: Tensor) -> None:
        self._driver, self._address = driver, address
        self.shape, self.dtype = tensor.shape, tensor.numpy_dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        host = np.empty(self.shape, self.dtype)
        self._driver.memcpy_dtoh(host, self._address)
        return host if dtype is None else host.astype(dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        found: NDArray[Any] = np.asarray(self)[index]
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        whole = index is Ellipsis
        host = np.empty(self.shape, self.dtype) if whole else np.asarray(self)
        host[index] = value
        self._driver.memcpy_htod(self._address, host)

    def __float__(self) -> float:
        return float(np.asarray(self))


class Part:
    """The part of a parameter that is not padding."""

    def __init__(self, whole: DeviceTensor, index: tuple[slice, ...]) -> None:
        self._whole, self._index = whole, index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        host = self._whole[self._index]
        return host if dtype is None else host.astype(dtype)

    def __setitem__(self, index: Any, value: Any) -> None:
        host = np.asarray(self._whole)
        host[self._index][index] = value
        self._whole[...] = host


class CudaModel:
    """A loaded artefact with memory of its own on the first device.  Not for use from two threads at once."""

    def __init__(self, artefact: Artefact, library: Path) -> None:
        if artefact.manifest.target != "cuda":
            raise InputError.of(f"{artefact.folder.name} is for target {artefact.manifest.target!r}, not 'cuda'")
        self.artefact = artefact
        self._driver = _driver()
        self._library = _load(library)
        self._programs = {p.name: symbol(self._library, p.function) for p in artefact.manifest.programs}
        self._failure = (ctypes.c_char * FAILURE_BYTES).in_dll(self._library, "gptc_failure")
        _check_memory(artefact, self._driver)
        sizes = artefact.manifest.segments
        self._segments = {name: self._driver.mem_alloc(max(1, sizes[name])) for name in SEGMENTS}
        for name in SEGMENTS:
            self._driver.memset_d8(self._segments[name], 0, max(1, sizes[name]))
        self._memory = Memory(*(int(segment) for segment in self._segments.values()))
        self._stream = self._driver.Stream()  # of the kind that waits for copies, which go to the default stream
        ctypes.c_void_p.in_dll(self._library, "gptc_stream").value = self._stream.handle
        self._views = {t.name: self._view(t) for t in artefact.manifest.tensors}
        self._masters = artefact.manifest.masters
        self._stale = False
        """Whether copies of parameters may be older than the parameters."""
        self._after = ctypes.c_void_p.in_dll(self._library, "gptc_after")
        self._hook: Callable[[int], None] | None = None
        self._raised: BaseException | None = None
        self._trampoline = AFTER(self._call_hook)

    def __getitem__(self, name: str) -> DeviceTensor:
        """A tensor on the device, padding included."""
        self._stale |= name in self._masters
        view = self._views.get(name)
        return self._views[self.artefact.tensor(name).name] if view is None else view

    def valid(self, param: Param) -> Part:
        """The part of a parameter that is not padding."""
        self._stale |= param.name in self._masters
        return Part(self._views[param.name], tuple(slice(extent) for extent in param.valid))

    def segment(self, name: Segment) -> NDArray[np.uint8]:
        """A copy of the raw bytes of a segment: "params", "state", "io" or "arena"."""
        host = np.empty(self.artefact.manifest.segments[name], np.uint8)
        if host.size:
            self._driver.memcpy_dtoh(host, self._segments[name])
        return host

    def run(self, program: str) -> None:
        """Run one program to its end.  What the hook raised is raised here.

        Parameters that were handed out may have been written since: then their copies are made anew first.
        """
        function = self._programs[self.artefact.program(program).name]
        if self._stale:
            self._stale, self._after.value = False, None
            self._programs["refresh"](ctypes.byref(self._memory))
        self._after.value = ctypes.cast(self._trampoline, ctypes.c_void_p).value if self._hook else None
        function(ctypes.byref(self._memory))
        if raised := self._raised:
            self._raised = None
            raise raised
        self._synchronise(program)

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        """Call `hook(n)` when kernel call n of a program has ended, in each that runs from now on; None ends it."""
        self._hook = hook

    def _synchronise(self, where: str) -> None:
        try:
            self._stream.synchronize()
        except self._driver.Error as error:
            raise InternalError.of(f"{where} failed on the device: {error}") from None
        if failure := self._failure.value.decode(errors="replace"):
            raise InternalError.of(f"{where}: cannot launch {failure}")

    def _call_hook(self, call: int) -> None:
        # An exception cannot cross the C frames: it is kept for `run`, and the hook rests until then.
        if self._hook is None or self._raised is not None:
            return
        try:
            self._synchronise(f"kernel call {call}")
            self._hook(call)
        except BaseException as error:
            self._raised = error

    def _view(self, tensor: Tensor) -> DeviceTensor:
        return DeviceTensor(self._driver, int(self._segments[tensor.segment]) + tensor.offset, tensor)


@cache
def _driver() -> Any:
    """pycuda's driver module, with the primary context of the first device current until the process ends."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        hint = "install pycuda; it needs NVIDIA's driver (libcuda.so.1) to load"
        raise ToolMissing.of(f"cannot load pycuda: {error}", None, hint) from None
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise ToolMissing.of(f"NVIDIA's driver does not start: {error}", None, "does `nvidia-smi` work?") from None
    if count == 0:
        raise ToolMissing.of("no CUDA device", None, "compile the model with --target c")
    context = driver.Device(0).retain_primary_context()
    context.push()
    atexit.register(context.pop)
    return driver


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise ToolMissing.of(f"cannot load {library.name}: {error}") from None


def _check_memory(artefact: Artefact, driver: Any) -> None:
    """Refuse what the device cannot hold, before anything is allocated."""
    need = sum(artefact.manifest.segments.values())
    free, _ = driver.mem_get_info()
    if need > free:
        sizes = f"needs {need / 2**30:,.1f} GiB of device memory; {free / 2**30:,.1f} are free"
        raise InputError.of(f"{artefact.manifest.model} {sizes}", None, SMALLER)
