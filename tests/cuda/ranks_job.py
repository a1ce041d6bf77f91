"""What every rank of a job on GPUs runs: some steps of a tiny GPT-2 on its share of the same tokens.

    python -m mpi4py -m tests.cuda.ranks_job FOLDER nccl|host [plain]

Prints one JSON object a rank.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import this_gpu
from gptc.runtime.dist import join
from gptc.runtime.init import initialise
from gptc.runtime.world import World
from tests.system.workshop import TINY, Workshop

BATCH, LENGTH, STEPS = 8, 32, 12


def main(folder: Path, collectives: str, plain: bool) -> None:
    world = join(collectives)
    world.meet(this_gpu())
    with world.together():
        found = train(world, folder, plain)
    sys.stdout.write(json.dumps(found) + "\n")  # one write, so that ranks do not interleave


def train(world: World, folder: Path, plain: bool) -> dict[str, Any]:
    """Some steps; what came of them."""
    own = BATCH // world.size
    built = Workshop(folder).build(TINY, own, LENGTH, target="cuda", ranks=True)  # found in the cache
    model = CudaModel(built.artefact, built.library, plain)
    initialise(model, 5 + world.rank)  # `attach` gives all of them rank 0's
    world.attach(model)
    rng = np.random.default_rng(3)
    losses = []
    for step in range(STEPS):
        tokens = rng.integers(0, 60, (BATCH, LENGTH + 1))[world.rank * own : (world.rank + 1) * own]
        model["tokens"][...], model["targets"][...] = tokens[:, :-1], tokens[:, 1:]
        model["lr"][...], model["step"][...] = 1e-3, step + 1
        model.run("step")
        losses.append(*world.mean(float(model["loss"])))
    weights = hashlib.sha256(model.segment("params").tobytes()).hexdigest()
    return {"rank": world.rank, "weights": weights, "losses": losses, "norm": float(model["norm"])}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "plain" in sys.argv[3:])
