"""The GPU of this machine: its driver, what it can hold, pinned memory, graphs of kernels.

The only importer of pycuda and of cuda.bindings, which work on the same primary context: pycuda has no graphs.
"""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InternalError, ToolMissing
from gptc.runtime.launch import local_rank

PLAIN = "or leave graphs away with --plain-launches"


@dataclass(frozen=True)
class Gpu:
    """A GPU and its memory in bytes.  `capability` is 90 for sm_90, `bus` where it is in its host."""

    name: str
    capability: int
    free: int
    total: int
    bus: str = ""


@cache
def driver() -> Any:
    """pycuda's driver module, with the primary context of this process's GPU current until the process ends.

    Ranks on one host take its GPUs in turn; a process of its own takes the first.
    """
    try:
        found = importlib.import_module("pycuda.driver")
    except ImportError as error:
        hint = "install pycuda; it needs NVIDIA's driver (libcuda.so.1) to load"
        raise ToolMissing.of(f"cannot load pycuda: {error}", None, hint) from None
    try:
        found.init()
        count = found.Device.count()
    except found.Error as error:
        raise ToolMissing.of(f"NVIDIA's driver does not start: {error}", None, "does `nvidia-smi` work?") from None
    if count == 0:
        raise ToolMissing.of("no CUDA device", None, "compile the model with --target c")
    context = found.Device(local_rank() % count).retain_primary_context()
    context.push()
    atexit.register(context.pop)
    return found


def this_gpu() -> Gpu:
    """The GPU of this process; ToolMissing where there is none, or no way to it."""
    device, (free, total) = driver().Context.get_device(), driver().mem_get_info()
    major, minor = device.compute_capability()
    return Gpu(device.name(), 10 * major + minor, free, total, device.pci_bus_id())


class Staging:
    """Writes a tensor through two pinned buffers: the next value is put down while the one before is still copied."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        count = max(1, int(np.prod(shape)))
        flat = [driver().pagelocked_empty(count, dtype) for _ in range(2)]
        self._buffers: list[NDArray[Any]] = [buffer.reshape(shape) for buffer in flat]
        self._copied = [driver().Event() for _ in range(2)]
        self._turn = 0

    def write(self, address: int, value: Any, stream: Any) -> None:
        """Queue the copy of `value` to `address`."""
        turn = self._turn = 1 - self._turn
        self._copied[turn].synchronize()
        self._buffers[turn][...] = value
        driver().memcpy_htod_async(address, self._buffers[turn], stream)
        self._copied[turn].record(stream)


class Graph:
    """Kernels that were queued once, to be launched together from then on: about a microsecond each, not four."""

    def __init__(self, stream: Any, queue: Callable[[], None]) -> None:
        """Record what `queue` puts into `stream`; nothing of it runs."""
        self._api = _bindings()
        self._stream = self._api.CUstream(int(stream.handle))
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._api.cuStreamBeginCapture(self._stream, mode))
        try:
            queue()
        except BaseException:
            self._api.cuStreamEndCapture(self._stream)
            raise
        graph = self._call(self._api.cuStreamEndCapture(self._stream))
        self._executable = self._call(self._api.cuGraphInstantiate(graph, 0))
        self._call(self._api.cuGraphDestroy(graph))

    def launch(self) -> None:
        """Queue all of it."""
        self._call(self._api.cuGraphLaunch(self._executable, self._stream))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        """What a function of the driver gives, or InternalError."""
        status, *results = answer
        if status != self._api.CUresult.CUDA_SUCCESS:
            raise InternalError.of(f"a graph of kernels failed: {status.name}", None, "--plain-launches tells which")
        return results[0] if results else None


@cache
def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        hint = f"install cuda-bindings, {PLAIN}"
        raise ToolMissing.of(f"cannot load cuda-bindings: {error}", None, hint) from None
