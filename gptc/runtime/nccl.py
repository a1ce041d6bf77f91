"""Means over GPUs through NCCL: the only module that imports it.

Collectives are queued on a stream of their own and joined to the model's by events, so that they run beside the
backward pass, and become part of the graph that a step is recorded as.  NCCL adds the ranks' numbers along one ring,
whose order depends on the number of ranks and the machine alone: the same bits in every run.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from gptc.errors import StorageError, ToolMissing
from gptc.runtime.device import driver
from gptc.runtime.hooks import joined

RING = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}
"""Of several ways to add, NCCL would choose by tables that change with its version.  What the user has set stays."""
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


class NcclExchange:
    """The ranks of a job, each on its own GPU, joined by NCCL."""

    recordable = True

    def __init__(
        self, size: int, rank: int, job: bytes, stream: Any, waiting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """All ranks must come here, with the `new_id` of the first.  `stream` is the model's."""
        self.rank, self.size, self.waiting = rank, size, waiting
        self._api, self._model, self._own = _bindings(), stream, driver().Stream()
        self._events: dict[int, tuple[Any, Any]] = {}
        """First address of a bucket -> when its tensors are there, and when their means are."""
        with _told(), waiting():
            self._comm = self._api.comm_init_rank(size, self._api.UniqueId.from_buffer(job), rank)

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        """Queue the means of float tensors at these addresses, behind what the model's stream holds now."""
        untimed = driver().event_flags.DISABLE_TIMING
        ready, done = self._events.setdefault(tensors[0], (driver().Event(untimed), driver().Event(untimed)))
        ready.record(self._model)
        self._own.wait_for_event(ready)
        float32, mean = self._api.DataType.Float32, self._api.RedOp.Avg
        with _told():
            self._api.group_start()
            for tensor, size in joined(tensors, sizes):
                self._api.all_reduce(tensor, tensor, size, float32, mean, self._comm, self._own.handle)
            self._api.group_end()
        done.record(self._own)

    def wait(self, first: int) -> None:
        """Let the model's stream wait for the means of what `average` took with this first address."""
        self._model.wait_for_event(self._events[first][1])

    def broadcast(self, address: int, size: int) -> None:
        """Fill bytes of the device with what they hold on the first rank."""
        with _told(), self.waiting():
            self._api.broadcast(address, address, size, self._api.DataType.Uint8, 0, self._comm, self._own.handle)
            self._own.synchronize()
