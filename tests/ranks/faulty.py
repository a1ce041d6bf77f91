"""A rank of a job in which one rank goes wrong: `python -m mpi4py -m tests.ranks.faulty KIND RANK`."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from gptc.errors import InputError
from gptc.runtime.dist import join
from gptc.runtime.world import World


def main(kind: str, rank: int) -> None:
    world = join()
    with world.together():
        for turn in range(40):
            if turn == 20 and kind == "write":
                write_together(world, slow=world.rank == rank)
            elif turn == 20 and world.rank == rank:
                go_wrong(kind)
            time.sleep(0.02)
            world.mean(1.0)


def write_together(world: World, slow: bool) -> None:
    """As a checkpoint that all ranks write, and that the next has to wait for."""
    with ThreadPoolExecutor(1) as pool, world.waiting():
        pool.submit(world.each, lambda: time.sleep(1000 * slow)).result()


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
