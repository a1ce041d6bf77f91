"""Several ranks through MPI: the only module that imports mpi4py.

Gradients travel on a thread of their own, over a communicator of their own, while the program computes on: its
`all_reduce_begin` hands a bucket to the thread, its `all_reduce_end` waits for it.  Everything else is exchanged by the
main thread between programs.  Sums are taken by MPI in an order that depends on the number of ranks alone.
"""

from __future__ import annotations

import ctypes
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, StorageError, ToolMissing
from gptc.runtime.cpu import CpuModel
from gptc.runtime.interrupt import Interrupted
from gptc.runtime.job import SIGNS
from gptc.runtime.model import Model
from gptc.runtime.pulse import EVERY, Pulse, diagnose, read_signs
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
    return MpiWorld(MPI.COMM_WORLD, os.environ.get(SIGNS))


class MpiWorld(World):
    """The ranks of an MPI communicator."""

    def __init__(self, comm: MPI.Comm, signs: str | None) -> None:
        """`signs` is where a parent looks for signs of life; without, rank 0 watches the others itself."""
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.own_signs = "" if signs else _folder_for_all(comm)
        self.pulse = Pulse(Path(signs or self.own_signs), self.rank)
        self.exchange = Exchange(comm.Dup(), self.pulse)
        if self.own_signs and self.leads:
            threading.Thread(target=self._watch, name="gptc watch", daemon=True).start()

    def attach(self, model: Model) -> None:
        if not isinstance(model, CpuModel):
            raise InputError.of("several ranks train on CPUs so far; this artefact is for a GPU")
        self.broadcast([model.segment("params"), model.segment("state")])
        model.on_exchange(self.exchange.begin, self.exchange.end)

    def mean(self, *values: float) -> tuple[float, ...]:
        total = np.array(values, np.float64)
        with self.pulse.waiting():
            self.comm.Allreduce(_in_place(), total)
        self.pulse.turn()
        return tuple((total / self.size).tolist())

    def broadcast(self, arrays: Sequence[NDArray[Any]]) -> None:
        for array in arrays:
            for start in range(0, array.size, CHUNK):
                with self.pulse.waiting():
                    self.comm.Bcast(array.reshape(-1)[start : start + CHUNK], root=0)

    def barrier(self) -> None:
        with self.pulse.waiting():
            self.comm.Barrier()

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except Interrupted:
            self._leave()  # all ranks stop, and the first may still be writing
            raise
        except BaseException as error:
            self._give_up(error)
            raise
        self._leave()

    def _give_up(self, error: BaseException) -> None:
        """End the whole job when this process ends.  What all ranks find wrong is told by the first alone."""
        from mpi4py.run import set_abort_status

        set_abort_status(getattr(error, "code", 1))
        if not self.leads:
            time.sleep(GRACE)

    def _leave(self) -> None:
        self.barrier()
        self.pulse.finish()
        self.barrier()
        if self.own_signs and self.leads:
            shutil.rmtree(self.own_signs, ignore_errors=True)

    def _watch(self) -> None:
        while not self.pulse.done:
            time.sleep(EVERY)
            if trouble := diagnose(read_signs(self.pulse.path.parent, self.size), time.time()):
                sys.stderr.write(f"error: {trouble}: the job is ended\n")
                self.comm.Abort(StorageError.code)


def _folder_for_all(comm: MPI.Comm) -> str:
    """A new folder that every rank sees: beside the run, because /tmp differs from host to host."""
    name = tempfile.mkdtemp(prefix=".gptc-ranks-", dir=".") if comm.Get_rank() == 0 else ""
    shared: str = comm.bcast(name, root=0)
    return shared


GRACE = 1.0
"""Seconds for the first rank to tell what is wrong and end the job."""
CHUNK = 1 << 28
"""Elements in one message: MPI counts in 32 bits."""


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE


class Exchange:
    """Averages tensors over the ranks on a thread of its own, in the order in which they are handed in."""

    def __init__(self, comm: MPI.Comm, pulse: Pulse) -> None:
        self.comm = comm
        self.pulse = pulse
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
        with self.pulse.waiting():
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
