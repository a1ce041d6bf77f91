"""Run a CUDA artefact: its library through ctypes, its memory on the GPU.

The library queues kernels on one stream; `run` returns when they have ended.  A program is queued kernel by kernel
the first time, recorded the second, and from then on launched as one graph.  The four segments are one allocation
each, zero at the start.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gptc.contracts import SEGMENTS, Segment
from gptc.errors import InputError, InternalError, ToolMissing
from gptc.runtime.artefact import Artefact
from gptc.runtime.calls import kernel_of, made_for
from gptc.runtime.device import Gpu, Graph, Staging, allocate, bindings, download, driver, failure, this_gpu, upload
from gptc.runtime.hooks import Exchange, Guard, set_hooks
from gptc.runtime.library import AFTER, SMALLER, Memory, Views, entry_point, failure_text
from gptc.runtime.manifest import Param, Tensor

OLDEST = 80
"""The oldest architecture that kernels are written for, sm_80."""


class DeviceTensor:
    """A tensor on the device.  Reading copies it to the host, assigning to a part copies it back."""

    def __init__(self, address: int, tensor: Tensor, stream: Any) -> None:
        self._address, self._stream = address, stream
        self._staged = tensor.segment == "io"
        self._staging: Staging | None = None
        self.shape, self.dtype = tensor.shape, tensor.numpy_dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        host = np.empty(self.shape, self.dtype)
        download(host, self._address)
        return host if dtype is None else host.astype(dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        found: NDArray[Any] = np.asarray(self)[index]
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        whole = index is Ellipsis
        if whole and self._staged:
            self._staging = self._staging or Staging(self.shape, self.dtype)
            self._staging.write(self._address, value, self._stream)
            return
        host = np.empty(self.shape, self.dtype) if whole else np.asarray(self)
        host[index] = value
        upload(self._address, host)

    def __float__(self) -> float:
        return float(np.asarray(self))


class DevicePart:
    """A part of a tensor on the device."""

    def __init__(self, whole: DeviceTensor, index: tuple[slice, ...]) -> None:
        self._whole, self._index = whole, index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        host = self._whole[self._index]
        return host if dtype is None else host.astype(dtype)

    def __setitem__(self, index: Any, value: Any) -> None:
        host = np.asarray(self._whole)
        host[self._index][index] = value
        self._whole[...] = host


class DeviceExchange(Exchange, Protocol):
    """The same with tensors of the device, in the order of the model's stream."""

    @property
    def recordable(self) -> bool:
        """Whether all that it does is queued on streams, so that it can be part of a graph."""

    def waiting(self) -> AbstractContextManager[None]:
        """For a block that waits for the device, where other ranks may keep it."""


class CudaModel:
    """A loaded artefact with memory of its own on this process's GPU.  Not for use from two threads at once.

    With `plain`, kernels are awaited one by one, so that a failure names its kernel: for finding faults.
    """

    def __init__(self, artefact: Artefact, library: Path, plain: bool = False) -> None:
        if artefact.manifest.target != "cuda":
            raise InputError.of(f"{artefact.folder.name} is for target {artefact.manifest.target!r}, not 'cuda'")
        self.artefact, self._plain = artefact, plain
        self._driver = driver()
        check_gpu(artefact, this_gpu())
        if not plain:
            bindings()  # missing, it is told now and not at the second step
        self._library = _load(library)
        self._programs = {p.name: entry_point(self._library, p.function) for p in artefact.manifest.programs}
        sizes = artefact.manifest.segments
        self._segments = {name: allocate(sizes[name]) for name in SEGMENTS}
        self._memory = Memory(*(int(segment) for segment in self._segments.values()))
        self.stream = self._driver.Stream()  # of the kind that waits for copies, which go to the default stream
        ctypes.c_void_p.in_dll(self._library, "gptc_stream").value = self.stream.handle
        self._views = Views(artefact, self._view)
        self._graphs: dict[str, Graph | None] = {}
        """Programs that have run: None until they are recorded."""
        self._after = ctypes.c_void_p.in_dll(self._library, "gptc_after")
        self._hook: Callable[[int], None] | None = None
        self._guard = Guard()
        self.running = ""
        """The program that runs, or ran last."""
        self._trampoline = AFTER(self._call_hook)
        self.exchange: DeviceExchange | None = None
        self._hooks: Sequence[object] = ()

    def __getitem__(self, name: str) -> DeviceTensor:
        """A tensor on the device, padding included."""
        return self._views[name]

    def valid(self, param: Param) -> DevicePart:
        """The part of a parameter that is not padding."""
        return self.leading(param.name, param.valid)

    def leading(self, name: str, extents: Sequence[int]) -> DevicePart:
        """The first elements of a tensor, so many along each axis."""
        return DevicePart(self[name], tuple(slice(extent) for extent in extents))

    @property
    def addresses(self) -> dict[str, int]:
        """Segment -> where it begins on the device."""
        return {name: int(segment) for name, segment in self._segments.items()}

    def segment(self, name: Segment) -> NDArray[np.uint8]:
        """A copy of the raw bytes of a segment: "params", "state", "io" or "arena"."""
        host = np.empty(self.artefact.manifest.segments[name], np.uint8)
        if host.size:
            download(host, int(self._segments[name]))
        return host

    def place(self, name: Segment) -> tuple[int, int]:
        """Address and bytes of a segment, to write to it."""
        self._views.hand_out(name)
        return int(self._segments[name]), self.artefact.manifest.segments[name]

    def peek(self, name: Segment, offset: int, size: int) -> NDArray[np.uint8]:
        """A copy of bytes of a segment."""
        host = np.empty(size, np.uint8)
        download(host, int(self._segments[name]) + offset)
        return host

    def checksums(self, tensors: Sequence[Tensor]) -> list[int]:
        """Of each tensor, what `CpuModel.checksums` says, added up by the device."""
        sums = np.empty(len(tensors), np.uint64)
        memory = allocate(sums.nbytes)
        for tensor, into in zip(tensors, range(int(memory), int(memory) + sums.nbytes, sums.itemsize), strict=True):
            address = ctypes.c_void_p(int(self._segments[tensor.segment]) + tensor.offset)
            self._library.gptc_checksum(address, ctypes.c_int64(tensor.nbytes), ctypes.c_void_p(into))
        self._synchronise("a comparison of weights")
        download(sums, int(memory))
        return [int(each) for each in sums]

    def run(self, program: str) -> None:
        """Run one program to its end.  What a hook raised is raised here.

        Parameters that were handed out may have been written since: then their copies are made anew first.
        """
        program = self.artefact.program(program).name
        self._refresh()
        if self._hook or self._plain:
            self._after.value = ctypes.cast(self._trampoline, ctypes.c_void_p).value
            self._queue(program)
        else:
            self._after.value = None
            self._launch(program)
        self._synchronise(program)

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        """Call `hook(n)` when kernel call n of a program has ended, in each that runs from now on; None ends it."""
        self._hook = hook

    def on_exchange(self, exchange: DeviceExchange) -> None:
        """Let programs do with other ranks, through `exchange`, what they do together."""
        self._hooks = set_hooks(self._library, self.artefact, exchange, self._guard)
        self.exchange = exchange

    def time_calls(self, program: str) -> list[float]:
        """Milliseconds of each kernel call of one run, from events between them."""
        events = [self._driver.Event()]

        def record(call: int) -> None:
            events.append(self._driver.Event().record(self.stream))

        trampoline = AFTER(record)
        self._refresh()
        self._after.value = ctypes.cast(trampoline, ctypes.c_void_p).value
        events[0].record(self.stream)
        self._queue(program)
        self._after.value = None
        self._synchronise(program)
        return [float(before.time_till(after)) for before, after in pairwise(events)]

    def _refresh(self) -> None:
        """Make the copies of parameters anew, where these were handed out.

        It ends before the program begins, whose kernels may ask for parameters before they wait for each other.
        """
        if self._views.stale:
            self._views.stale, self._after.value = False, None
            self._queue("refresh")
            self._synchronise("refresh")

    def _queue(self, program: str) -> None:
        self.running = program
        self._programs[program](ctypes.byref(self._memory))
        self._guard.release()

    def _launch(self, program: str) -> None:
        """Kernel by kernel the first time, when launchers get their memory; then as a graph, if it can be one."""
        if program not in self._graphs or (self.exchange and not self.exchange.recordable):
            self._graphs[program] = None
            self._queue(program)
            return
        graph = self._graphs[program] or Graph(self.stream, partial(self._queue, program))
        self._graphs[program] = graph
        graph.launch()

    def _synchronise(self, where: str, kernel: str = "") -> None:
        try:
            with self.exchange.waiting() if self.exchange else nullcontext():
                self.stream.synchronize()
        except self._driver.Error as error:
            span, ops = made_for(self.artefact, kernel)
            raise failure(where, str(error), ops, span) from None
        if said := failure_text(self._library):
            span, ops = made_for(self.artefact, said.split(":")[0])
            raise InternalError.of(f"{where}: cannot launch {said}", span, None, *filter(None, (ops,)))

    def _call_hook(self, call: int) -> None:
        self._guard(lambda: self._awaited(call))

    def _awaited(self, call: int) -> None:
        """Let the hook have kernel call `call`, when it has ended."""
        try:
            self.stream.synchronize()
        except self._driver.Error:
            kernel = kernel_of(self.artefact, self.running, call)
            self._synchronise(f"kernel call {call} of {self.running}, {kernel},", kernel)
        if self._hook:
            self._hook(call)

    def _view(self, tensor: Tensor) -> DeviceTensor:
        return DeviceTensor(int(self._segments[tensor.segment]) + tensor.offset, tensor, self.stream)


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise ToolMissing.of(f"cannot load {library.name}: {error}") from None


def check_architecture(artefact: Artefact, gpu: Gpu) -> None:
    """Refuse code that the device cannot run."""
    found = re.search(r"code=\[(sm_(\d+)a?)", " ".join(artefact.manifest.build.flags))
    if found and (gpu.capability != int(found[2]) if found[1].endswith("a") else gpu.capability < int(found[2])):
        message = f"compiled for {found[1]}; this GPU, {gpu.name}, is sm_{gpu.capability}"
        hint = "with --march native" if gpu.capability >= OLDEST else "with --target c: kernels are for sm_80 and later"
        raise InputError.of(message, None, f"compile it again {hint}")


def check_gpu(artefact: Artefact, gpu: Gpu) -> None:
    """Refuse what the device cannot run or hold, before anything is allocated."""
    check_architecture(artefact, gpu)
    need = sum(artefact.manifest.segments.values())
    if need > gpu.free:
        sizes = f"needs {need / 2**30:,.1f} GiB of device memory; {gpu.free / 2**30:,.1f} are free"
        raise InputError.of(f"{artefact.manifest.model} {sizes}", None, SMALLER)
