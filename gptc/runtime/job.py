"""A job of several ranks, from the process that starts it: forwards signals, and ends it when it cannot go on.

The launcher gets a session of its own, so that a signal from the terminal reaches this process alone.  It hands SIGINT
and SIGTERM to rank 0, from which the others learn of them: some launchers would kill their ranks instead.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from gptc.errors import GptcError, InputError, InternalError, NumericsError, StorageError, ToolMissing, UsageError
from gptc.runtime.launch import Launcher, find_launcher
from gptc.runtime.pulse import Sign, Watcher, read_signs

SIGNS = "GPTC_SIGNS"
"""Variable that tells a rank where to give its signs of life."""
POLL = 0.2
GRACE = 2.0
"""Seconds between two looks at the ranks, and for the launcher to end by itself."""
EXPLAINED = (*(e.code for e in (InputError, UsageError, ToolMissing, NumericsError, StorageError)), InternalError.code)
"""Exit codes of a rank that has printed what is wrong."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
INSTALL = "pip install 'gptc[mpi]' brings both"
PROBE = "import mpi4py; mpi4py.rc.initialize = False; import mpi4py.MPI"


def launcher() -> Launcher:
    """The MPI launcher; ToolMissing without, or where ranks could not load MPI: then each would say so at length."""
    found = find_launcher()
    if found is None:
        raise ToolMissing.of("several ranks need an MPI launcher, and there is no mpiexec", None, INSTALL)
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ToolMissing.of(f"several ranks need mpi4py and an MPI that it finds: {last}", None, INSTALL)
    return found


def run_ranks(size: int, argv: Sequence[str]) -> int:
    """Run `python -m mpi4py ARGV` as `size` ranks; returns their exit code.

    Raises StorageError, which names the rank, when one dies, stops or keeps the others waiting.
    """
    start = launcher()
    with tempfile.TemporaryDirectory(prefix="gptc-ranks-") as name:
        folder = Path(name)
        command = start.command(size, [sys.executable, "-m", "mpi4py", *argv])
        process = subprocess.Popen(command, env=os.environ | start.environment | {SIGNS: name}, start_new_session=True)
        with _forwarding(folder, process.pid) as asked:
            deaths, watcher = Deaths(), Watcher(folder, size)
            while (code := process.poll()) is None:
                signs = read_signs(folder, size)
                deaths.watch(signs)
                deaths.wait(POLL)
                if not asked.early and (trouble := watcher.look(deaths.order)):
                    return _end(process, signs, trouble)
            code = code if code >= 0 else 128 - code
            if asked.number and (code in STOPPED or (asked.early and code)):
                return 128 + asked.number  # launchers have codes of their own, and other ranks know no number
            if code not in (0, *EXPLAINED, *STOPPED) and (trouble := watcher.look(deaths.order)):
                raise _ended(trouble)  # the launcher was quicker than a look
    return code


UNSEEN = -1


class Deaths:
    """Who ends first: a launcher ends the other ranks within milliseconds of the first.

    The kernel lists ends as they come (`epoll` keeps what is ready in that order), so it does not matter how late one
    looks.
    """

    def __init__(self) -> None:
        self.order: dict[int, int] = {}
        """Processes that have ended -> how many before them; UNSEEN where that was before they were watched."""
        self.poll = select.epoll()
        self.watched: dict[int, int] = {}
        """File descriptor of a process -> its number."""

    def watch(self, signs: Sequence[Sign]) -> None:
        """Watch the processes of this machine among them, each once."""
        for sign in signs:
            known = sign.pid in self.order or sign.pid in self.watched.values()
            if sign.host == socket.gethostname() and not known:
                try:
                    descriptor = os.pidfd_open(sign.pid)
                except ProcessLookupError:
                    self.order[sign.pid] = UNSEEN
                    continue
                self.watched[descriptor] = sign.pid
                self.poll.register(descriptor, select.EPOLLIN)

    def wait(self, seconds: float) -> None:
        """Return at the next end of a process, or after some time."""
        for descriptor, _ in self.poll.poll(seconds):
            self.order[self.watched.pop(descriptor)] = len(self.order)
            self.poll.unregister(descriptor)
            os.close(descriptor)


def _end(process: subprocess.Popen[bytes], signs: Sequence[Sign], trouble: str) -> int:
    """Stop every rank, after each has printed where it is; returns the code of a rank that has explained itself."""
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(GRACE)  # a launcher ends the others by itself when a rank dies
        if code in EXPLAINED:
            sys.stderr.write(f"{trouble}\n")
            return code
    for number in (signal.SIGUSR1, signal.SIGKILL):
        for sign in signs:
            with suppress(ProcessLookupError):
                os.kill(sign.pid, number)
        time.sleep(POLL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    raise _ended(trouble)


def _ended(trouble: str) -> GptcError:
    hint = "gptc train --resume auto goes on from the last checkpoint"
    return StorageError.of(f"{trouble}: the job is ended", None, hint)


@dataclass
class Asked:
    """The first signal that has come, 0 for none, and whether there was no rank yet that could be told."""

    number: int = 0
    early: bool = False


@contextmanager
def _forwarding(folder: Path, group: int) -> Iterator[Asked]:
    """Signals for this process go to rank 0.  While there is no rank yet, SIGTERM ends the launcher: of SIGINT every
    Python that is just beginning would print a traceback."""
    asked = Asked()

    def forward(number: int, frame: FrameType | None) -> None:
        signs = read_signs(folder, 1)
        asked.number, asked.early = asked.number or number, asked.early or not signs
        with suppress(ProcessLookupError):
            os.kill(signs[0].pid, number) if signs else os.killpg(group, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
