"""What ranks do together with tensors in memory of the host, through MPI.

Gradients travel on a thread of their own, over a communicator of their own, while the program computes on: what begins
an exchange hands a bucket to the thread, what ends it waits for it.  Everything else is exchanged by the main thread.

Sums are taken in the order of the ranks, each rank adding up its share of a tensor: the same bits under any MPI, and
whether shares are gathered afterwards (`average`) or stay where they are (`scatter`).
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptc.runtime.pulse import Pulse
from gptc.shares import part, share

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE = 1 << 18
"""Elements that ranks add up at a time: enough for full bandwidth, few enough to be added in the cache."""


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
        from mpi4py import MPI

        parts = [part(whole.size, self.size, rank) for rank in range(self.size)]
        counts, starts = [stop - start for start, stop in parts], [start for start, _ in parts]
        comm.Allgatherv(MPI.IN_PLACE, [whole, (counts, starts)])


def _floats(address: int, count: int) -> NDArray[np.float32]:
    """The floats at an address, in place."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))
