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
    weights = hashlib.sha256(model.segment("params").data).hexdigest()
    norm = float(model["norm"])
    return {"rank": world.rank, "size": world.size, "weights": weights, "losses": losses, "norm": norm}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
