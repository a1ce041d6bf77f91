"""The same model gives the same sources, and the same sources the same weights, to the last bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Step
from gptc.runtime.loader import Loader
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from tests.system.workshop import NANO, NEEDS_BF16, TINY, Workshop

EMIT = """
import sys
from pathlib import Path
from gptc.compiler import compile_model
from gptc.request import Request
from gptc.options import Options
from gptc.runtime.cache import Cache
root = Path(sys.argv[1])
for path in sys.argv[2:]:
    compile_model(Request(Path(path), Options(), (), 2, 16), root / "build", Cache(root / "cache"))
"""
STEPS = 8


def test_sources_do_not_depend_on_hashing(tmp_path: Path) -> None:
    trees = []
    for seed in ("0", "1", "2", "42", "4294967295"):
        subprocess.run(
            [sys.executable, "-c", EMIT, str(tmp_path / seed), str(TINY), str(NANO)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        trees.append(tree(tmp_path / seed / "build"))
    assert len({name.split("/")[0] for name in trees[0]}) == 2
    assert all(other == trees[0] for other in trees[1:])


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` by its path."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16)])
def test_weights_do_not_depend_on_threads(workshop: Workshop, precision: str) -> None:
    """Sizes at which every kind of kernel hands out work to threads; two runs at the last number of them."""
    built = workshop.build(NANO, batch=4, seq=64, precision=precision)
    found: dict[int, tuple[object, ...]] = {}
    for run, threads in enumerate((1, 2, 3, 4, 4)):
        model = built.model()
        model.set_threads(threads)
        losses = trained(model)
        found[run] = losses, *(hashlib.sha256(model.segment(name).data).hexdigest() for name in ("params", "state"))
    assert len(set(found.values())) == 1, found
    assert losses[-1] < losses[0]


def trained(model: CpuModel) -> tuple[float, ...]:
    """Losses of some steps on random tokens that favour a few."""
    dims = model.artefact.manifest.dims
    batch = dims["B"], dims["T"]
    rng = np.random.default_rng(7)
    tokens = (rng.random((STEPS + 1) * batch[0] * batch[1]) ** 3 * dims["V"]).astype(np.uint16)
    loader = Loader([Memory(tokens)], *batch, dims["V"])
    data = Data("random tokens", loader, loader)
    losses: list[float] = []
    train(
        model, data, TrainSettings(STEPS, eval_batches=1),
        lambda event: losses.append(event.loss) if isinstance(event, Step) else None,
    )  # fmt: skip
    return tuple(losses)
