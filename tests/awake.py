"""Time for limits that hold on a busy machine too."""

from __future__ import annotations

import threading
import time
from typing import Self

TICK = 0.05
LONGEST = 0.25
"""Seconds that pass between two looks, and as which any longer time counts: then this process could not run."""


class Awake:
    """A clock that stands still while the process is stopped, and hardly goes while it waits for a processor."""

    def __enter__(self) -> Self:
        self.seconds, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        before = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            self.seconds += min(now - before, LONGEST)
            before = now
