"""Several ranks through MPI: the only module that imports mpi4py.

Gradients travel on a thread of their own, over a communicator of their own, while the program computes on: what begins
an exchange hands a bucket to the thread, what ends it waits for it.  Everything else is exchanged by the main thread.

Sums are taken in the order of the ranks, each rank adding up its share of a tensor: the same bits under any MPI, and
whether shares are gathered afterwards (`average`) or stay where they are (`scatter`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import GptcError, InputError, StorageError, ToolMissing
from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import Gpu
from gptc.runtime.interrupt import Interrupted, hold
from gptc.runtime.job import SIGNS
from gptc.runtime.manifest import Segment
from gptc.runtime.model import Model
from gptc.runtime.nccl import NcclExchange, new_id
from gptc.runtime.pulse import EVERY, Pulse, Watcher
from gptc.runtime.staged import StagedExchange
from gptc.runtime.world import Result, World
from gptc.shares import part, share

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL = "pip install 'gptc[mpi]'"
NCCL, HOST = "nccl", "host"
"""Between GPUs: directly, or through memory of the host and MPI."""


def join(collectives: str = NCCL) -> World:
    """The job that this process was started in.  `collectives` says how ranks on GPUs exchange: NCCL or HOST.

    From now on signals wait for an Interrupt: they come to a rank as soon as it gives a sign of life.
    """
    hold()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py finds no MPI library: RuntimeError
        raise ToolMissing.of(f"this rank cannot use MPI: {error}", None, INSTALL) from None
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ToolMissing.of("this MPI allows one thread only; gradients travel on a second one", None, INSTALL)
    return MpiWorld(MPI.COMM_WORLD, os.environ.get(SIGNS), collectives)


class MpiWorld(World):
    """The ranks of an MPI communicator."""

    def __init__(self, comm: MPI.Comm, signs: str | None, collectives: str) -> None:
        """`signs` is where a parent looks for signs of life; without, rank 0 watches the others itself."""
        self.comm, self.aside, self.collectives = comm, comm.Dup(), collectives
        """For the main thread, and for one beside it."""
        self.over = False
        """Whether this rank gives up."""
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.own_signs = "" if signs else _folder_for_all(comm)
        self.pulse = Pulse(Path(signs or self.own_signs), self.rank)
        self.exchange = MpiExchange(comm, self.pulse)
        self.nccl: NcclExchange | None = None
        """Of ranks on GPUs that do not go through the host."""
        if self.own_signs and self.leads:
            threading.Thread(target=self._watch, name="gptc watch", daemon=True).start()

    def attach(self, model: Model) -> None:
        super().attach(model)
        if isinstance(model, CudaModel):
            self._attach_gpu(model)
            return
        for name in _common(model):
            self.broadcast([model.segment(name)])
        model.on_exchange(self.exchange)

    def meet(self, gpu: Gpu) -> None:
        if self.collectives == HOST:
            return
        with self.pulse.waiting():
            places = self.comm.allgather((socket.gethostname(), gpu.bus))
        if error := shared(places, gpu.name):
            self._give_up(error)
            raise error

    def _attach_gpu(self, model: CudaModel) -> None:
        exchange: NcclExchange | StagedExchange
        if self.collectives == NCCL:
            job = self.comm.bcast(new_id() if self.leads else None, root=0)
            exchange = self.nccl = NcclExchange(self.size, self.rank, job, model.stream, self.pulse.waiting)
        else:
            exchange = StagedExchange(self.exchange, lambda some: self.broadcast([some]), model.stream)
        for name in _common(model):
            exchange.broadcast(*model.place(name))
        model.on_exchange(exchange)

    def mean(self, *values: float) -> tuple[float, ...]:
        total = np.array(values, np.float64)
        with self.pulse.waiting():
            self.comm.Allreduce(_in_place(), total)
        self.pulse.turn()
        return tuple((total / self.size).tolist())

    def turn(self) -> None:
        self.pulse.turn()

    def gather(self, text: str) -> tuple[str, ...]:
        with self.pulse.waiting():
            return tuple(self.comm.allgather(text))

    def broadcast(self, arrays: Sequence[NDArray[Any]]) -> None:
        for array in arrays:
            for start in range(0, array.size, CHUNK):
                with self.pulse.waiting():
                    self.comm.Bcast(array.reshape(-1)[start : start + CHUNK], root=0)

    def tell(self, text: str) -> str:
        with self.pulse.waiting():
            told: str = self.comm.bcast(text, root=0)
        return told

    def each(self, work: Callable[[], Result]) -> list[Result]:
        given: Result | OSError
        try:
            given = work()
        except OSError as error:
            given = OSError(error.errno, f"rank {self.rank}: {error.strerror or error}")
        answers = self._answers(given)
        results = [answer for answer in answers if not isinstance(answer, OSError)]
        if len(results) < self.size:
            raise next(answer for answer in answers if isinstance(answer, OSError))
        return results

    def _answers(self, own: Any) -> list[Any]:
        """What every rank has sent to all.  It looks now and then: MPI itself would wait on a core that others need."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        answers = {self.rank: own}
        sent = [self.aside.isend(own, rank) for rank in others]
        while len(answers) < self.size or not all(request.Test() for request in sent):
            for rank in others:
                if rank not in answers and self.aside.iprobe(rank):
                    answers[rank] = self.aside.recv(source=rank)
            if self.over:
                raise OSError(errno.ECANCELED, f"rank {self.rank} has failed")
            time.sleep(LOOK)
        return [answers[rank] for rank in range(self.size)]

    def alone(self) -> World:
        return _OneOfMany(self.pulse)

    def goes_on(self) -> None:
        self.pulse.goes_on()

    def waiting(self) -> AbstractContextManager[None]:
        return self.pulse.waiting()

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

        self.over = True
        if self.nccl:
            self.nccl.abort()
        set_abort_status(getattr(error, "code", 1))
        if self.leads:
            self._clear()
        else:
            time.sleep(GRACE)

    def _leave(self) -> None:
        self.barrier()
        self.pulse.finish()
        self.barrier()
        if self.leads:
            self._clear()

    def _clear(self) -> None:
        """Remove the folder of signs, if it is this job's own."""
        if self.own_signs:
            shutil.rmtree(self.own_signs, ignore_errors=True)

    def _watch(self) -> None:
        watcher = Watcher(self.pulse.path.parent, self.size)
        while not self.pulse.done:
            time.sleep(EVERY)
            if trouble := watcher.look():
                sys.stderr.write(f"error: {trouble}: the job is ended\n")
                self.comm.Abort(StorageError.code)


def _common(model: Model) -> tuple[Segment, ...]:
    """What the first rank gives to the others."""
    return ("params", "state") if model.artefact.manifest.shards == 1 else ("params",)


def shared(places: Sequence[tuple[str, str]], name: str) -> GptcError | None:
    """What is wrong with the GPUs of the ranks, each known by its host and its place there."""
    for rank, place in enumerate(places):
        if (first := places.index(place)) < rank:
            host, bus = place
            message = f"ranks {first} and {rank} have one GPU ({name} {bus} of {host}), and NCCL wants one for each"
            hint = "start as many ranks as there are GPUs, or let them share with --collectives host"
            return InputError.of(message, None, hint)
    return None


class _OneOfMany(World):
    """Work that one rank does alone while others may wait for it."""

    def __init__(self, pulse: Pulse) -> None:
        self.goes_on = pulse.goes_on  # type: ignore[method-assign]
        self.waiting = pulse.waiting  # type: ignore[method-assign]


def _folder_for_all(comm: MPI.Comm) -> str:
    """A new folder that every rank sees: beside the run, because /tmp differs from host to host."""
    name = tempfile.mkdtemp(prefix=".gptc-ranks-", dir=".") if comm.Get_rank() == 0 else ""
    shared: str = comm.bcast(name, root=0)
    return shared


LOOK = 0.01
"""Seconds between two looks for what other ranks say of their checkpoint."""
GRACE = 1.0
"""Seconds for the first rank to tell what is wrong and end the job."""
CHUNK = 1 << 28
"""Elements in one message: MPI counts in 32 bits."""
PIECE = 1 << 18
"""Elements that ranks add up at a time: enough for full bandwidth, few enough to be added in the cache."""


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE


class MpiExchange:
    """Tensors between ranks.  What is begun is done by a thread of its own, in the order in which it was begun."""

    def __init__(self, comm: MPI.Comm, pulse: Pulse) -> None:
        self.comm, self.beside = comm, comm.Dup()
        """For the main thread, and for the other."""
        self.pulse = pulse
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.received = np.empty((self.size, PIECE), np.float32)
        """Terms of a sum, those of each rank in a row; this rank's own row has the sum."""
        self.pending: queue.SimpleQueue[tuple[threading.Event, list[Callable[[], None]]]] = queue.SimpleQueue()
        self.finished: dict[int, threading.Event] = {}
        """First address of a bucket -> whether what belongs there is there."""
        self.failed: BaseException | None = None
        threading.Thread(target=self._work, name="gptc exchange", daemon=True).start()

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        self._begin(tensors[0], [partial(self.mean, _floats(x, n)) for x, n in zip(tensors, sizes, strict=True)])

    def scatter(self, tensors: Sequence[int], shares: Sequence[int], sizes: Sequence[int]) -> None:
        self._begin(shares[0], [
            partial(self.share_of_mean, _floats(x, n), _floats(y, share(n, self.size)))
            for x, y, n in zip(tensors, shares, sizes, strict=True)
        ])  # fmt: skip

    def wait(self, first: int) -> None:
        with self.pulse.waiting():
            self.finished.pop(first).wait()
        if self.failed is not None:
            raise self.failed

    def gather(self, shares: Sequence[int], tensors: Sequence[int], sizes: Sequence[int]) -> None:
        with self.pulse.waiting():
            for own, tensor, size in zip(shares, tensors, sizes, strict=True):
                whole = _floats(tensor, size)
                start, stop = part(size, self.size, self.rank)
                whole[start:stop] = _floats(own, share(size, self.size))[: stop - start]
                self._gather(self.comm, whole)

    def sum(self, address: int) -> None:
        own = ctypes.c_double.from_address(address)
        terms = np.empty(self.size)
        with self.pulse.waiting():
            self.comm.Allgather(np.array([own.value]), terms)
        own.value = sum(terms.tolist())

    def mean(self, array: NDArray[np.float32]) -> None:
        """Put the means over the ranks in place of the numbers, at once."""
        start, stop = part(array.size, self.size, self.rank)
        self._reduce(array, array[start:stop])
        self._gather(self.beside, array)

    def share_of_mean(self, array: NDArray[np.float32], into: NDArray[np.float32]) -> None:
        """This rank's share of the means over the ranks, then zeros, at once."""
        start, stop = part(array.size, self.size, self.rank)
        into[stop - start :] = 0
        self._reduce(array, into[: stop - start])

    def _begin(self, first: int, work: list[Callable[[], None]]) -> None:
        self.finished[first] = threading.Event()
        self.pending.put((self.finished[first], work))

    def _work(self) -> None:
        while True:
            finished, work = self.pending.get()
            try:
                for each in work:
                    each()
            except BaseException as error:  # raised again by the thread that waits
                self.failed = error
            finished.set()

    def _reduce(self, array: NDArray[np.float32], own: NDArray[np.float32]) -> None:
        """`own`, which may lie in `array`, becomes this rank's share of the means; in pieces that a cache holds."""
        parts = [part(array.size, self.size, rank) for rank in range(self.size)]
        total, others = self.received[self.rank], [rank != self.rank for rank in range(self.size)]
        places = [rank * PIECE for rank in range(self.size)]
        for low in range(0, share(array.size, self.size), PIECE):
            pieces = [(min(start + low, stop), min(start + low + PIECE, stop)) for start, stop in parts]
            sent = [(stop - start) * other for (start, stop), other in zip(pieces, others, strict=True)]
            start, stop = pieces[self.rank]
            count = stop - start
            got = [count * other for other in others]
            starts = [piece[0] for piece in pieces]
            self.beside.Alltoallv([array, (sent, starts)], [self.received, (got, places)])
            rows = [self.received[rank] if other else array[start:stop] for rank, other in enumerate(others)]
            np.copyto(total[:count], rows[0][:count])
            for row in rows[1:]:
                total[:count] += row[:count]
            np.multiply(total[:count], np.float32(1 / self.size), out=own[low : low + count])

    def _gather(self, comm: MPI.Comm, whole: NDArray[np.float32]) -> None:
        """Every rank's share, which is in its place already, to all others."""
        parts = [part(whole.size, self.size, rank) for rank in range(self.size)]
        counts, starts = [stop - start for start, stop in parts], [start for start, _ in parts]
        comm.Allgatherv(_in_place(), [whole, (counts, starts)])


def _floats(address: int, count: int) -> NDArray[np.float32]:
    """The floats at an address, in place."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))
