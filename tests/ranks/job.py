"""What every rank of the tests' jobs runs: some steps of gpt2-nano on its share of the same tokens.

    python -m mpi4py -m tests.ranks.job FOLDER SEED

Prints one JSON object a rank.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from gptc.runtime.cpu import CpuModel
from gptc.runtime.dist import join
from gptc.runtime.init import initialise
from tests.system.workshop import NANO, Workshop

BATCH, LENGTH, STEPS = 8, 32, 12


def main(folder: Path, seed: int) -> None:
    world = join()
    own = BATCH // world.size
    built = Workshop(folder).build(NANO, own, LENGTH, ranks=True)  # made by the test: found in the cache
    model = CpuModel(built.artefact, built.library)
    model.set_threads(1)
    initialise(model, seed + world.rank)  # `attach` gives all of them rank 0's
    world.attach(model)
    rng = np.random.default_rng(3)
    losses = []
    for step in range(STEPS):
        tokens = rng.integers(0, 64, (BATCH, LENGTH + 1))[world.rank * own : (world.rank + 1) * own]
        model["tokens"][...], model["targets"][...] = tokens[:, :-1], tokens[:, 1:]
        model["lr"][...], model["step"][...] = 1e-3, step + 1
        model.run("step")
        losses.append(*world.mean(float(model["loss"])))
    weights = hashlib.sha256(model.segment("params").data).hexdigest()
    found = {"rank": world.rank, "size": world.size, "weights": weights, "losses": losses, "norm": float(model["norm"])}
    world.finish()
    sys.stdout.write(json.dumps(found) + "\n")  # one write, so that ranks do not interleave


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
