"""Several ranks: what `gptc train --ranks N` does differently in the process that starts them and in each of them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptc.cli.flags import Job
    from gptc.runtime.world import World


def distributed(job: Job, ranks: int, zero: int) -> Job:
    """The same job for so many ranks: with gradients that are averaged over them and, at stage 1 of ZeRO, state that
    is divided among them."""
    options = replace(job.request.options, ranks=True, shards=ranks if zero else 1)
    return replace(job, request=replace(job.request, options=options, ranks=ranks))


def whole(job: Job, ranks: int | None, zero: int) -> Job:
    """The same job for one rank, which has all state."""
    from gptc.errors import UsageError

    if zero and ranks is None:
        raise UsageError.of("--zero 1 divides state among ranks, and there is one", None, "start several with --ranks")
    return job


def join_job(job: Job, ranks: int | None, collectives: str | None) -> World | None:
    """The ranks that this process is one of; None where it has to start them.

    A launcher such as `mpiexec` or `srun` may have started them already: then `--ranks` need not be given.
    """
    from gptc.errors import UsageError
    from gptc.runtime.launch import ranks_here
    from gptc.runtime.world import ALONE

    gpus = job.request.options.target == "cuda"
    if collectives and not gpus:
        raise UsageError.of("--collectives is for ranks on GPUs", None, "those on CPUs exchange through MPI")
    here = ranks_here()
    if here is None or here == 1:
        return ALONE if ranks in (None, 1) else None
    if ranks not in (None, here):
        raise UsageError.of(f"--ranks {ranks}, but the launcher has started {here}", None, "leave --ranks out")
    from gptc.runtime.device import this_gpu
    from gptc.runtime.dist import NCCL, join

    world = join(collectives or NCCL)
    if gpus:
        world.meet(this_gpu())
    return world


def start_ranks(ranks: int) -> int:
    """Run this very command as so many ranks; returns its exit code."""
    from gptc.runtime.job import run_ranks

    return run_ranks(ranks, ["-m", "gptc", *sys.argv[1:]])


def threads_of(ranks: int) -> int:
    """Threads of each rank, where all of them share this machine."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)
