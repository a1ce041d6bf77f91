"""SIGINT and SIGTERM as a wish to stop, which training grants between two programs; twice is an order.

The first signal only raises a flag, or, where nothing can be harmed and the wait may be long (compiling, reading
data), the exception `Interrupted` at once.  The second ends the process at once, even inside a long program: a
thread listens for it, because Python's own handlers wait for the main thread to come out of C.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 0.2
"""Seconds within which two signals are one: a launcher forwards what the terminal has sent to all."""


def hold() -> None:
    """Let signals wait for the Interrupt that will take them: until then one would end this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Interrupted(KeyboardInterrupt):
    """Asked to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number
        """The exit code by which a shell knows a process that a signal has ended."""


class Interrupt:
    """The wish to stop.  As a context manager it takes over both signals; without, it never comes."""

    def __init__(self, notice: str = "", patient: bool = False) -> None:
        """`patient`: even a block that could be left at once runs to its end, because other ranks wait for it; and
        afterwards signals are ignored, because ranks leave together."""
        self._notice = notice
        self._patient = patient
        self._number: int | None = None
        self._breaks = False

    def __enter__(self) -> Self:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def __exit__(self, *failure: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._patient else handler)
        os.close(self._writer)
        self._listener.join()

    @property
    def wished(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def wish(self) -> Interrupted:
        """What to raise when a signal has come, here or at another rank of the job."""
        return Interrupted(self._number or signal.SIGTERM)

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.wished:
            raise self.wish()

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """A block that a signal leaves at once, by Interrupted."""
        self._breaks = not self._patient
        try:
            if self._breaks:
                self.check()
            yield
        finally:
            self._breaks = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._number = self._number or number
        if self._breaks:
            self._breaks = False
            raise Interrupted(self._number)

    def _listen(self, reader: int) -> None:
        first = None
        while byte := os.read(reader, 1):
            if byte[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                with suppress(OSError):  # nobody may be listening
                    os.write(2, self._notice.encode())
            elif time.monotonic() - first > TOGETHER:
                os._exit(128 + byte[0])
        os.close(reader)
