"""What number formats cost: one model trained in each of them, from the same weights on the same batches.

    python -m bench.formats TEXT --steps 1000 --lr 1e-3 1e-4 1e-5
    python -m bench.formats TEXT --target cuda --model gpt2-124m --batch 4 --seq 64 --steps 200 --lr 3e-4

f32 throughout; f32 masters beside products in f16 (on a GPU) or bf16; weights in bf16 and no masters; the latter two
rounded to nearest and stochastically.  Prints validation losses, and how far the training losses are from those of f32.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.data import open_data
from gptc.runtime.events import Event, Step
from gptc.runtime.init import initialise
from gptc.runtime.model import load_model
from gptc.runtime.settings import TrainSettings
from gptc.runtime.train import train

WAYS = {
    "f32": ("f32", True, "nearest"),
    "f16, f32 masters": ("f16", True, "nearest"),
    "bf16, f32 masters": ("bf16", True, "nearest"),
    "bf16, f32 masters, stochastic copies": ("bf16", True, "stochastic"),
    "bf16, no masters, stochastic": ("bf16", False, "stochastic"),
    "bf16, no masters, to nearest": ("bf16", False, "nearest"),
}
"""Name -> precision, master weights, rounding."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="gpt2-nano")
    parser.add_argument("--target", default="c")
    parser.add_argument("--march", default="native")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seq", type=int)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=20, help="of the validation")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    options = parser.parse_args()
    print(f"# {options.model}, {options.steps:,} steps in several number formats\n")
    print(f"`python -m bench.formats {' '.join(sys.argv[1:])}`\n")
    heads = [f"lr {lr:g}: validation | rms from f32" for lr in options.lr]
    print(f"| weights | parameters and state, MiB | {' | '.join(heads)} |")
    print("|---|---:|" + "---:|---:|" * len(heads))
    first: dict[float, list[float]] = {}
    for way, (precision, _, _) in WAYS.items():
        if precision == "f16" and options.target == "c":
            continue
        cells = []
        for lr in options.lr:
            losses, validation, size = curve(options, way, lr)
            gaps = [a - b for a, b in zip(losses, first.setdefault(lr, losses), strict=True)]
            cells += [f"{validation:.4f}", f"{math.sqrt(sum(gap * gap for gap in gaps) / len(gaps)):.4f}"]
        print(f"| {way} | {size / 2**20:,.2f} | {' | '.join(cells)} |", flush=True)


def curve(options: argparse.Namespace, way: str, lr: float) -> tuple[list[float], float, int]:
    """The loss before each step, that of the validation at the end, and the bytes of parameters and state."""
    precision, masters, rounding = WAYS[way]
    told = (f"train.master_weights={str(masters).lower()}", f"train.rounding={rounding}")
    chosen = Options(precision=precision, target=options.target, march=options.march)
    request = Request(models_dir() / f"{options.model}.yaml", chosen, told, options.batch, options.seq)
    compiled = compile_model(request, Path("build"))
    manifest = compiled.artefact.manifest
    model = load_model(compiled.artefact, build_model(compiled).library)
    initialise(model)
    data = open_data(options.data, "bytes", *(manifest.dims[d] for d in ("B", "T", "V")))
    losses: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Step):
            losses.append(event.loss)

    summary = train(model, data, TrainSettings(options.steps, lr, eval_batches=options.batches), report)
    assert summary.val_loss is not None
    return losses, summary.val_loss, manifest.segments["params"] + manifest.segments["state"]


if __name__ == "__main__":
    main()
