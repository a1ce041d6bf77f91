"""What every rank of the tests' jobs runs: some steps of a tiny GPT-2 on its share of the same tokens.

    python -m mpi4py -m tests.ranks.job FOLDER SEED SHARDS

Prints one JSON object a rank.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gptc.runtime.cpu import CpuModel
from gptc.runtime.dist import join
from gptc.runtime.init import initialise
from gptc.runtime.world import World
from tests.system.workshop import TINY, Workshop

BATCH, LENGTH, STEPS = 8, 32, 12


def main(folder: Path, seed: int, shards: int) -> None:
    world = join()
    with world.together():
        found = train(world, folder, seed, shards)
    sys.stdout.write(json.dumps(found) + "\n")  # one write, so that ranks do not interleave


def train(world: World, folder: Path, seed: int, shards: int) -> dict[str, Any]:
    """Some steps; what came of them."""
    own = BATCH // world.size
    built = Workshop(folder).build(TINY, own, LENGTH, ranks=True, shards=shards)  # made by the test: found in the cache
    model = CpuModel(built.artefact, built.library)
    model.set_threads(1)
    initialise(model, seed + world.rank)  # `attach` gives all of them rank 0's
    world.attach(model)
    rng = np.random.default_rng(3)
    losses = []
    for step in range(STEPS):
        tokens = rng.integers(0, 60, (BATCH, LENGTH + 1))[world.rank * own : (world.rank + 1) * own]
        model["tokens"][...], model["targets"][...] = tokens[:, :-1], tokens[:, 1:]
        model["lr"][...], model["step"][...] = 1e-3, step + 1
        model.run("step")
        losses.append(*world.mean(float(model["loss"])))
    norm = float(model["norm"])
    found = {"rank": world.rank, "size": world.size, "weights": weights(model), "losses": losses, "norm": norm}
    return found | skips(model, world)


def skips(model: CpuModel, world: World) -> dict[str, Any]:
    """Three steps on the last batch with limits twice just below and once just above the mean loss: which were made.

    The losses of the ranks lie on both sides of the limits, so that ranks which decided for themselves would part.
    """
    model.run("evaluate")
    own = float(model["loss"])
    (mean,) = world.mean(own)
    moved = []
    shares = [float(each) for each in world.gather(str(own / mean))]
    below = (1 + min(shares)) / 2  # one rank by itself would make the update
    for share in (below, below, 2 - below):
        before = weights(model)
        model["max_loss"][...] = share * mean
        model.run("step")
        assert (weights(model) == before) == (float(model["clip_scale"]) == 0)
        moved.append(weights(model) != before)
    return {"moved": moved, "shares": shares}


def weights(model: CpuModel) -> str:
    return hashlib.sha256(model.segment("params").data).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
