"""Means over GPUs through pinned memory of the host and MPI: slow, and everywhere.

The model's stream goes on while a bucket is copied out; the host, which has nothing else to do, exchanges it when it
comes to the program's end of that bucket, and queues the copy back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptc.runtime.device import driver
from gptc.runtime.hooks import joined

if TYPE_CHECKING:
    from gptc.runtime.dist import MpiExchange

CHUNK = 1 << 28
"""Bytes of a segment that are on the host at a time."""


@dataclass(frozen=True)
class _Bucket:
    """Addresses on the device with numbers of elements, and memory of the host for these."""

    pieces: list[tuple[int, int]]
    staging: tuple[NDArray[np.float32], ...]
    ready: Any
    copied: Any


class StagedExchange:
    """The ranks of a job, on any GPUs, joined by MPI."""

    recordable = False
    """The host takes part."""

    def __init__(self, host: MpiExchange, spread: Callable[[NDArray[np.uint8]], None], stream: Any) -> None:
        """`host` averages, and `spread` broadcasts, what is in host memory.  `stream` is the model's."""
        self.rank, self.size, self.waiting = host.rank, host.size, host.pulse.waiting
        self._host, self._spread, self._model, self._own = host, spread, stream, driver().Stream()
        self._buckets: dict[int, _Bucket] = {}

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        """Queue the copy of float tensors to the host, behind what the model's stream holds now."""
        bucket, pieces = self._buckets.get(tensors[0]), joined(tensors, sizes)
        if bucket is None or bucket.pieces != pieces:
            bucket = self._buckets[tensors[0]] = _bucket(pieces)
        bucket.ready.record(self._model)
        self._own.wait_for_event(bucket.ready)
        for (address, _), staging in zip(bucket.pieces, bucket.staging, strict=True):
            driver().memcpy_dtoh_async(staging, address, self._own)
        bucket.copied.record(self._own)

    def wait(self, first: int) -> None:
        """Queue the copy of their means back, once they are known."""
        bucket = self._buckets[first]
        bucket.copied.synchronize()
        for (address, _), staging in zip(bucket.pieces, bucket.staging, strict=True):
            with self.waiting():
                self._host.mean(staging)
            driver().memcpy_htod_async(address, staging, self._model)

    def broadcast(self, address: int, size: int) -> None:
        """Fill bytes of the device with what they hold on the first rank."""
        for start in range(0, size, CHUNK):
            host = np.empty(min(CHUNK, size - start), np.uint8)
            driver().memcpy_dtoh(host, address + start)
            self._spread(host)
            driver().memcpy_htod(address + start, host)


def _bucket(pieces: list[tuple[int, int]]) -> _Bucket:
    staging = tuple(driver().pagelocked_empty(size, np.float32) for _, size in pieces)
    untimed = driver().event_flags.DISABLE_TIMING
    return _Bucket(pieces, staging, driver().Event(untimed), driver().Event(untimed))
