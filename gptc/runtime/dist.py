"""Several ranks through MPI: the only module that imports mpi4py.

Gradients travel on a thread of their own, over a communicator of their own, while the program computes on: its
`all_reduce_begin` hands a bucket to the thread, its `all_reduce_end` waits for it.  Everything else is exchanged by the
main thread between programs.  Sums are taken by MPI in an order that depends on the number of ranks alone.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, ToolMissing
from gptc.runtime.cpu import CpuModel
from gptc.runtime.model import Model
from gptc.runtime.world import World

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL = "pip install 'gptc[mpi]'"


def join() -> World:
    """The job that this process was started in."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py finds no MPI library: RuntimeError
        raise ToolMissing.of(f"this rank cannot use MPI: {error}", None, INSTALL) from None
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ToolMissing.of("this MPI allows one thread only; gradients travel on a second one", None, INSTALL)
    return MpiWorld(MPI.COMM_WORLD)


class MpiWorld(World):
    """The ranks of an MPI communicator."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.exchange = Exchange(comm.Dup())

    def attach(self, model: Model) -> None:
        if not isinstance(model, CpuModel):
            raise InputError.of("several ranks train on CPUs so far; this artefact is for a GPU")
        self.broadcast([model.segment("params"), model.segment("state")])
        model.on_exchange(self.exchange.begin, self.exchange.end)

    def mean(self, *values: float) -> tuple[float, ...]:
        total = np.array(values, np.float64)
        self.comm.Allreduce(_in_place(), total)
        return tuple((total / self.size).tolist())

    def broadcast(self, arrays: Sequence[NDArray[Any]]) -> None:
        for array in arrays:
            for start in range(0, array.size, CHUNK):
                self.comm.Bcast(array.reshape(-1)[start : start + CHUNK], root=0)

    def barrier(self) -> None:
        self.comm.Barrier()


CHUNK = 1 << 28
"""Elements in one message: MPI counts in 32 bits."""


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE


class Exchange:
    """Averages tensors over the ranks on a thread of its own, in the order in which they are handed in."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self.size = comm.Get_size()
        self.pending: queue.SimpleQueue[tuple[threading.Event, list[NDArray[np.float32]]]] = queue.SimpleQueue()
        self.finished: dict[int, threading.Event] = {}
        """First address of a bucket -> whether its means are there."""
        self.failed: BaseException | None = None
        threading.Thread(target=self._work, name="gptc exchange", daemon=True).start()

    def begin(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        """Take over float tensors at these addresses."""
        self.finished[tensors[0]] = threading.Event()
        self.pending.put((self.finished[tensors[0]], list(map(_floats, tensors, sizes))))

    def end(self, first: int) -> None:
        """Return when the means are there of what `begin` took with this first address."""
        self.finished.pop(first).wait()
        if self.failed is not None:
            raise self.failed

    def _work(self) -> None:
        while True:
            finished, arrays = self.pending.get()
            try:
                for array in arrays:
                    self._average(array)
            except BaseException as error:  # raised again by the thread that waits
                self.failed = error
            finished.set()

    def _average(self, array: NDArray[np.float32]) -> None:
        for start in range(0, array.size, CHUNK):
            part = array[start : start + CHUNK]
            self.comm.Allreduce(_in_place(), part)
            part *= np.float32(1 / self.size)


def _floats(address: int, count: int) -> NDArray[np.float32]:
    """The floats at an address, in place."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))
