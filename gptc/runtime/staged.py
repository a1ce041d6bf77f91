"""What ranks on GPUs do together, through pinned memory of the host and MPI: slow, and everywhere.

The model's stream goes on while a bucket is copied out; the host, which has nothing else to do, exchanges it when it
comes to the program's end of that bucket, and queues the copy back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.runtime.device import driver
from gptc.runtime.hooks import joined
from gptc.runtime.mpi import MpiExchange
from gptc.shares import share

CHUNK = 1 << 28
"""Bytes of a segment that are on the host at a time."""
Piece = tuple[int, int]
"""Address on the device, and number of floats."""


@dataclass(frozen=True)
class _Bucket:
    """Addresses on the device with numbers of floats, and memory of the host for these: what is sent, and what comes of
    it, which lies in the same memory where means take the place of tensors."""

    sent: Sequence[Piece]
    staged: Sequence[NDArray[np.float32]]
    made: Sequence[Piece]
    results: Sequence[NDArray[np.float32]]
    ready: Any
    copied: Any


class StagedExchange:
    """The ranks of a job, on any GPUs, joined by MPI."""

    recordable = False
    """The host takes part."""

    def __init__(self, host: MpiExchange, spread: Callable[[NDArray[np.uint8]], None], stream: Any) -> None:
        """`host` does, and `spread` broadcasts, what is in host memory.  `stream` is the model's."""
        self.rank, self.size, self.waiting = host.rank, host.size, host.pulse.waiting
        self._host, self._spread, self._model, self._own = host, spread, stream, driver().Stream()
        self._buckets: dict[int, _Bucket] = {}
        """By the first address of what comes of them."""

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        pieces = joined(tensors, sizes)
        self._send(tensors[0], pieces, pieces)

    def scatter(self, tensors: Sequence[int], shares: Sequence[int], sizes: Sequence[int]) -> None:
        made = list(zip(shares, (share(size, self.size) for size in sizes), strict=True))
        self._send(shares[0], list(zip(tensors, sizes, strict=True)), made)

    def wait(self, first: int) -> None:
        bucket = self._buckets[first]
        bucket.copied.synchronize()
        for staged, (address, _), result in zip(bucket.staged, bucket.made, bucket.results, strict=True):
            with self.waiting():
                if result is staged:
                    self._host.mean(staged)
                else:
                    self._host.share_of_mean(staged, result)
            driver().memcpy_htod_async(address, result, self._model)

    def gather(self, shares: Sequence[int], tensors: Sequence[int], sizes: Sequence[int]) -> None:
        made = list(zip(tensors, sizes, strict=True))
        bucket = self._send(tensors[0], list(zip(shares, (share(n, self.size) for n in sizes), strict=True)), made)
        bucket.copied.synchronize()
        own, whole = ([array.ctypes.data for array in arrays] for arrays in (bucket.staged, bucket.results))
        self._host.gather(own, whole, sizes)
        for (address, _), result in zip(made, bucket.results, strict=True):
            driver().memcpy_htod_async(address, result, self._model)

    def sum(self, address: int) -> None:
        self._model.synchronize()
        number = np.empty(1)
        driver().memcpy_dtoh(number, address)
        self._host.sum(number.ctypes.data)
        driver().memcpy_htod(address, number)

    def _send(self, first: int, sent: Sequence[Piece], made: Sequence[Piece]) -> _Bucket:
        """Queue the copy of float tensors to the host, behind what the model's stream holds now."""
        bucket = self._buckets.get(first)
        if bucket is None or (bucket.sent, bucket.made) != (sent, made):
            bucket = self._buckets[first] = _bucket(sent, made)
        bucket.ready.record(self._model)
        self._own.wait_for_event(bucket.ready)
        for (address, _), staged in zip(sent, bucket.staged, strict=True):
            driver().memcpy_dtoh_async(staged, address, self._own)
        bucket.copied.record(self._own)
        return bucket

    def broadcast(self, address: int, size: int) -> None:
        """Fill bytes of the device with what they hold on the first rank."""
        for start in range(0, size, CHUNK):
            host = np.empty(min(CHUNK, size - start), np.uint8)
            driver().memcpy_dtoh(host, address + start)
            self._spread(host)
            driver().memcpy_htod(address + start, host)


def _bucket(sent: Sequence[Piece], made: Sequence[Piece]) -> _Bucket:
    staged, results = ([_pinned(size) for _, size in pieces] for pieces in (sent, made if made is not sent else ()))
    untimed = driver().event_flags.DISABLE_TIMING
    return _Bucket(sent, staged, made, results or staged, driver().Event(untimed), driver().Event(untimed))


def _pinned(size: int) -> NDArray[np.float32]:
    memory: NDArray[np.float32] = driver().pagelocked_empty(size, np.float32)
    return memory
