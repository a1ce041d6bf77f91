"""The GPU of this machine: its driver, what it can hold, pinned memory, graphs of kernels.

The only importer of pycuda and of cuda.bindings, which work on the same primary context: pycuda has no graphs.
"""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import GptcError, InputError, InternalError, Span, StorageError, ToolMissing
from gptc.runtime.launch import local_rank
from gptc.runtime.library import SMALLER

PLAIN = "or leave graphs away with --plain-launches"
LOST = ("ecc", "unavailable", "lost", "disconnected", "nvlink", "contained", "unknown error", "hardware")
"""Words of errors that are no kernel's fault."""


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
    except ModuleNotFoundError as error:
        raise ToolMissing.of(f"cannot load pycuda: {error}", None, "pip install 'gptc[cuda]'") from None
    except ImportError as error:
        hint = "it needs NVIDIA's driver (libcuda.so.1): install that, or use --target c"
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


def failure(where: str, said: str, kernel: str = "", span: Span | None = None) -> GptcError:
    """What the driver `said` of `where` as gptc's error.  `kernel` tells the one that failed and its ops, where that is
    known; the device tells it only of one that is awaited."""
    words = said.lower().replace("_", " ")
    notes = [kernel] if kernel else []
    if "out of memory" in words:
        return InputError.of(f"{where} needs more memory than the GPU has free: {said}", span, SMALLER, *notes)
    if any(word in words for word in LOST):
        hint = "look at `nvidia-smi`; --resume auto goes on from the last checkpoint"
        return StorageError.of(f"the GPU was lost during {where}: {said}", span, hint, *notes)
    again = None if kernel else "run it again with --plain-launches, which tells the kernel"
    return InternalError.of(f"{where} failed on the device: {said}", span, again, *notes)


@contextmanager
def told(where: str) -> Iterator[None]:
    """The driver's errors as gptc's."""
    try:
        yield
    except driver().Error as error:
        raise failure(where, str(error)) from None


def allocate(size: int) -> Any:
    """Memory of the device, zero at the start."""
    with told(f"a segment of {size / 2**30:,.1f} GiB"):
        memory = driver().mem_alloc(max(1, size))
        driver().memset_d8(memory, 0, max(1, size))
    return memory


def download(to: NDArray[Any], address: int) -> None:
    """Copy from the device."""
    with told("a copy from the GPU"):
        driver().memcpy_dtoh(to, address)


def upload(address: int, value: NDArray[Any]) -> None:
    """Copy to the device."""
    with told("a copy to the GPU"):
        driver().memcpy_htod(address, value)


class Staging:
    """Writes a tensor through two pinned buffers: the next value is put down while the one before is still copied."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        count = max(1, int(np.prod(shape)))
        with told("pinned memory of the host"):
            flat = [driver().pagelocked_empty(count, dtype) for _ in range(2)]
        self._buffers: list[NDArray[Any]] = [buffer.reshape(shape) for buffer in flat]
        self._copied = [driver().Event() for _ in range(2)]
        self._turn = 0

    def write(self, address: int, value: Any, stream: Any) -> None:
        """Queue the copy of `value` to `address`."""
        turn = self._turn = 1 - self._turn
        with told("a copy to the GPU"):
            self._copied[turn].synchronize()
            self._buffers[turn][...] = value
            driver().memcpy_htod_async(address, self._buffers[turn], stream)
            self._copied[turn].record(stream)


class Graph:
    """Kernels that were queued once, to be launched together from then on: about a microsecond each, not four."""

    def __init__(self, stream: Any, queue: Callable[[], None]) -> None:
        """Record what `queue` puts into `stream`; nothing of it runs."""
        self._api = bindings()
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
        """What a function of the driver gives; its error as gptc's."""
        status, *results = answer
        if status != self._api.CUresult.CUDA_SUCCESS:
            raise failure("a graph of kernels", status.name)
        return results[0] if results else None


@cache
def bindings() -> Any:
    """What makes graphs; ToolMissing where it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        hint = f"install cuda-bindings, {PLAIN}"
        raise ToolMissing.of(f"cannot load cuda-bindings: {error}", None, hint) from None
