"""A rank of a job in which one rank goes wrong: `python -m mpi4py -m tests.ranks.faulty KIND RANK`."""

from __future__ import annotations

import os
import signal
import sys
import time

from gptc.errors import InputError
from gptc.runtime.dist import join


def main(kind: str, rank: int) -> None:
    world = join()
    with world.together():
        for turn in range(40):
            if turn == 20 and world.rank == rank:
                go_wrong(kind)
            time.sleep(0.02)
            world.mean(1.0)


def go_wrong(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "sleep":
        time.sleep(1000)
    elif kind == "raise":
        raise RuntimeError("a planted fault")
    elif kind == "error":
        print("a planted error", file=sys.stderr)
        sys.exit(InputError.code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
