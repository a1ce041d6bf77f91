"""What every rank of a job on GPUs runs: some steps of a tiny GPT-2 on its share of the same tokens.

    python -m mpi4py -m tests.cuda.ranks_job FOLDER nccl|host SHARDS [plain|kill|stop|sleep|raise]

Prints one JSON object a rank.  The last four are what rank 1 does in the middle.
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
from gptc.runtime.snapshot import lasting_state, own
from gptc.runtime.world import World
from tests.ranks.faulty import go_wrong
from tests.system.workshop import Workshop

BATCH, LENGTH, STEPS = 8, 32, 12
MODEL = "odd.yaml"
FAULTS = ("kill", "stop", "sleep", "raise")


def main(folder: Path, collectives: str, shards: int, more: str) -> None:
    world = join(collectives)
    world.meet(this_gpu())
    with world.together():
        found = train(world, folder, shards, more)
    sys.stdout.write(json.dumps(found) + "\n")  # one write, so that ranks do not interleave


def train(world: World, folder: Path, shards: int, more: str) -> dict[str, Any]:
    """Some steps; what came of them."""
    batch = BATCH // world.size
    shop = Workshop(folder)  # which the test has filled
    built = shop.build(folder / MODEL, batch, LENGTH, target="cuda", ranks=True, shards=shards)
    model = CudaModel(built.artefact, built.library, more == "plain")
    initialise(model, 5 + world.rank)  # `attach` gives all of them rank 0's
    world.attach(model)
    rng = np.random.default_rng(3)
    losses = []
    for step in range(STEPS):
        if more in FAULTS and step == STEPS // 2 and world.rank == 1:
            fail(model, more)
        tokens = rng.integers(0, 60, (BATCH, LENGTH + 1))[world.rank * batch : (world.rank + 1) * batch]
        model["tokens"][...], model["targets"][...] = tokens[:, :-1], tokens[:, 1:]
        model["lr"][...], model["step"][...] = 1e-3, step + 1
        model.run("step")
        losses.append(*world.mean(float(model["loss"])))
    moments = sum(np.asarray(own(model, tensor, world.rank)).size for tensor in lasting_state(model))
    weights = hashlib.sha256(model.segment("params").tobytes()).hexdigest()
    sums = model.checksums(model.artefact.manifest.params)
    return {
        "rank": world.rank, "weights": weights, "sums": sums, "losses": losses, "norm": float(model["norm"]),
        "moments": moments,
    }  # fmt: skip


def fail(model: CudaModel, kind: str) -> None:
    """With `raise`, when this rank's stream waits for others, which wait for something else."""
    if kind == "raise" and model.exchange:
        address, _ = model.place("arena")
        model.exchange.average([address], [16])
        model.exchange.wait(address)
    go_wrong(kind)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:]))
