"""A rank of a job in which one bit of one rank's weights flips after some steps.

python -m mpi4py -m tests.ranks.flipped FOLDER BATCH RANK
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gptc.errors import GptcError
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.dist import join
from gptc.runtime.events import Event, Step
from gptc.runtime.init import initialise
from gptc.runtime.loader import Loader
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from tests.ranks.job import LENGTH
from tests.system.workshop import TINY, Workshop

TENSOR, AT, EVERY = "h.1.proj.w", 7, 5
"""What flips, after which step, and how often ranks are compared."""


def main(folder: Path, batch: int, rank: int) -> None:
    world = join()
    built = Workshop(folder).build(TINY, batch, LENGTH, ranks=True)  # made by the test: found in the cache
    model = CpuModel(built.artefact, built.library)
    model.set_threads(1)
    initialise(model)
    loader = Loader([Memory((np.arange(4000) * 7 % 60).astype(np.uint16))], batch, LENGTH, 61)

    def report(event: Event) -> None:
        if isinstance(event, Step) and event.step == AT and world.rank == rank:
            model[TENSOR].view(np.uint32)[3, 4] ^= 1 << 9

    try:
        with world.together():
            world.attach(model)
            settings = TrainSettings(20, check_ranks_every=EVERY)
            train(model, Data("numbers", loader, loader), settings, report, world=world)
    except GptcError as error:
        if world.leads:
            sys.stderr.write(f"{error}\n")
        sys.exit(error.code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
