"""Several ranks through MPI: joining a job, and what its ranks tell each other on the main thread.

Gradients travel on a thread of their own, over a communicator of their own (`gptc.runtime.mpi`), while the program
computes on.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptc.contracts import Segment
from gptc.errors import GptcError, InputError, StorageError, ToolMissing
from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import Gpu
from gptc.runtime.interrupt import Interrupted, hold
from gptc.runtime.job import SIGNS
from gptc.runtime.model import Model
from gptc.runtime.mpi import MpiExchange
from gptc.runtime.nccl import NcclExchange, new_id
from gptc.runtime.pulse import EVERY, Pulse, Watcher
from gptc.runtime.staged import StagedExchange
from gptc.runtime.world import Result, World

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL = "pip install 'gptc[mpi]'"
NCCL, HOST = "nccl", "host"
"""Between GPUs: directly, or through memory of the host and MPI."""
LOOK = 0.01
"""Seconds between two looks for what other ranks say of their checkpoint."""
GRACE = 1.0
"""Seconds for the first rank to tell what is wrong and end the job."""
CHUNK = 1 << 28
"""Elements in one message: MPI counts in 32 bits."""


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
        if error := gpu_of_two(places, gpu.name):
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
        total = np.empty(len(values))
        with self.pulse.waiting():
            self.comm.Allreduce(np.array(values, np.float64), total)
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


def gpu_of_two(places: Sequence[tuple[str, str]], name: str) -> GptcError | None:
    """The error where two ranks have one GPU; `places` has the host and the bus of each rank's."""
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
        self.pulse = pulse

    def goes_on(self) -> None:
        self.pulse.goes_on()

    def waiting(self) -> AbstractContextManager[None]:
        return self.pulse.waiting()


def _folder_for_all(comm: MPI.Comm) -> str:
    """A new folder that every rank sees: beside the run, because /tmp differs from host to host."""
    name = tempfile.mkdtemp(prefix=".gptc-ranks-", dir=".") if comm.Get_rank() == 0 else ""
    shared: str = comm.bcast(name, root=0)
    return shared
