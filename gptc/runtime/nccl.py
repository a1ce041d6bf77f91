"""What ranks on GPUs do together, through NCCL: the only module that imports it.

Collectives are queued on a stream of their own and joined to the model's by events, so that they run beside the
backward pass, and become part of the graph that a step is recorded as.  NCCL adds the ranks' numbers along one ring,
whose order depends on the number of ranks and the machine alone: the same bits in every run.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from gptc.errors import StorageError, ToolMissing
from gptc.runtime.device import driver
from gptc.runtime.hooks import FLOAT, joined
from gptc.shares import part, share

RING = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}
"""Of several ways to add, NCCL would choose by tables that change with its version.  What the user has set stays."""
SMALL = 1 << 16
"""Elements below which a tensor travels with other small ones only.  On two H200 the shares of all gradients of GPT-2
124M take 1.67 ms in one launch; those of the large tensors take 0.87, those of the small ones 0.06.  Gathering takes
1.90, 0.91 and 0.06."""
HINT = "NCCL_DEBUG=INFO tells more; --collectives host does without NCCL"


@cache
def _bindings() -> Any:
    for name, value in RING.items():
        os.environ.setdefault(name, value)  # read once, when the first communicator is made
    try:
        found = importlib.import_module("nccl.bindings.nccl")
        found.get_version()  # loads the library
        return found
    except (ImportError, RuntimeError) as error:
        hint = "pip install 'gptc[nccl]', or train with --collectives host"
        raise ToolMissing.of(f"ranks on GPUs need NCCL: {error}", None, hint) from None


@contextmanager
def _told() -> Iterator[None]:
    """NCCL's errors as gptc's."""
    try:
        yield
    except _bindings().NCCLError as error:
        raise StorageError.of(f"NCCL failed: {error}", None, HINT) from None


def new_id() -> bytes:
    """What the first rank makes, and all must have, to find each other."""
    with _told():
        return bytes(_bindings().get_unique_id())


def alike(tensors: Iterable[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Tensors, told by two addresses and a size, by what may be one launch: the small ones, the others."""
    found: tuple[list[tuple[int, int, int]], ...] = ([], [])
    for each in tensors:
        found[each[2] >= SMALL].append(each)
    return [some for some in found if some]


class NcclExchange:
    """The ranks of a job, each on its own GPU, joined by NCCL."""

    recordable = True

    def __init__(
        self, size: int, rank: int, job: bytes, stream: Any, waiting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """All ranks must come here, with the `new_id` of the first.  `stream` is the model's."""
        self.rank, self.size, self.waiting = rank, size, waiting
        self._api, self._model, self._own = _bindings(), stream, driver().Stream()
        self._float, self._mean = self._api.DataType.Float32, self._api.RedOp.Avg
        self._events: dict[int, tuple[Any, Any]] = {}
        """First address of a bucket -> when its tensors are there, and when what becomes of them is."""
        with _told(), waiting():
            self._comm = self._api.comm_init_rank(size, self._api.UniqueId.from_buffer(job), rank)

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        with self._beside(tensors[0]) as stream, self._group():
            for tensor, size in joined(tensors, sizes):
                self._api.all_reduce(tensor, tensor, size, self._float, self._mean, self._comm, stream)

    def scatter(self, tensors: Sequence[int], shares: Sequence[int], sizes: Sequence[int]) -> None:
        with self._beside(shares[0]) as stream:
            for some in alike(zip(tensors, shares, sizes, strict=True)):
                with self._group():
                    for each in some:
                        self._scatter(*each, stream)

    def gather(self, shares: Sequence[int], tensors: Sequence[int], sizes: Sequence[int]) -> None:
        with self._beside(tensors[0]) as stream:
            for some in alike(zip(shares, tensors, sizes, strict=True)):
                with self._group():
                    for each in some:
                        self._gather(*each, stream)
        self.wait(tensors[0])

    def _scatter(self, tensor: int, own: int, size: int, stream: int) -> None:
        each = share(size, self.size)
        if each * self.size == size:
            self._api.reduce_scatter(tensor, own, each, self._float, self._mean, self._comm, stream)
            return
        self._fill(own, size)
        for rank, start, count in self._parts(size):
            begin = tensor + FLOAT * start
            self._api.reduce(begin, own, count, self._float, self._mean, rank, self._comm, stream)

    def _gather(self, own: int, tensor: int, size: int, stream: int) -> None:
        each = share(size, self.size)
        if each * self.size == size:
            self._api.all_gather(own, tensor, each, self._float, self._comm, stream)
            return
        for rank, start, count in self._parts(size):
            self._api.broadcast(own, tensor + FLOAT * start, count, self._float, rank, self._comm, stream)

    def sum(self, address: int) -> None:
        with self._beside(address) as stream, self._group():
            kind = self._api.DataType.Float64
            self._api.all_reduce(address, address, 1, kind, self._api.RedOp.Sum, self._comm, stream)
        self.wait(address)

    def wait(self, first: int) -> None:
        self._model.wait_for_event(self._events[first][1])

    def abort(self) -> None:
        """Give up what the other ranks will not do their part of: kernels that wait for them would keep this process
        from ending.  NCCL waits for the graphs that it is part of, so nobody waits for it."""
        threading.Thread(target=self._api.comm_abort, args=(self._comm,), name="gptc abort", daemon=True).start()

    @contextmanager
    def _beside(self, first: int) -> Iterator[int]:
        """For collectives on the stream that it gives, behind what the model's stream holds now; `wait` knows them by
        `first`."""
        untimed = driver().event_flags.DISABLE_TIMING
        ready, done = self._events.setdefault(first, (driver().Event(untimed), driver().Event(untimed)))
        ready.record(self._model)
        self._own.wait_for_event(ready)
        yield self._own.handle
        done.record(self._own)

    @contextmanager
    def _group(self) -> Iterator[None]:
        """Collectives that one launch does."""
        with _told():
            self._api.group_start()
            yield
            self._api.group_end()

    def _parts(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Rank, first element and number of elements of each share of a tensor that has any.  NCCL's own ways to divide
        take shares of one length, which lie one behind another; where the last are cut short, each goes by itself."""
        for rank in range(self.size):
            start, stop = part(size, self.size, rank)
            if start < stop:
                yield rank, start, stop - start

    def _fill(self, own: int, size: int) -> None:
        """Queue zeros behind what this rank's share has of a tensor."""
        start, stop = part(size, self.size, self.rank)
        if zeros := share(size, self.size) - (stop - start):
            driver().memset_d32_async(own + FLOAT * (stop - start), 0, zeros, self._own)

    def broadcast(self, address: int, size: int) -> None:
        """Fill bytes of the device with what they hold on the first rank."""
        with _told(), self.waiting():
            self._api.broadcast(address, address, size, self._api.DataType.Uint8, 0, self._comm, self._own.handle)
            self._own.synchronize()
