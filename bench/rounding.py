"""What weights in bf16 cost, and what rounding them at random is for: one model trained in five ways.

    python bench/rounding.py TEXT --steps 4000 --lr 1e-3 1e-4

f32 throughout; bf16 products beside f32 masters; bf16 weights and no masters; the latter two rounded to nearest and
stochastically.  All begin with the same weights and see the same batches.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gptc.compiler import Request, build_model, compile_model
from gptc.options import Options
from gptc.resources import models_dir
from gptc.runtime.data import open_data
from gptc.runtime.init import initialise
from gptc.runtime.model import load_model
from gptc.runtime.settings import TrainSettings
from gptc.runtime.train import train

WAYS = {
    "f32": ("f32", True, "nearest"),
    "bf16, masters, copies to nearest": ("bf16", True, "nearest"),
    "bf16, masters, copies at random": ("bf16", True, "stochastic"),
    "bf16 weights, at random": ("bf16", False, "stochastic"),
    "bf16 weights, to nearest": ("bf16", False, "nearest"),
}
"""Name -> precision, master weights, rounding."""


def validation_loss(options: argparse.Namespace, way: str, lr: float) -> tuple[float, int]:
    """After the last step, and the bytes of parameters and state."""
    precision, masters, rounding = WAYS[way]
    told = (f"train.master_weights={str(masters).lower()}", f"train.rounding={rounding}")
    chosen = Options(precision=precision, target=options.target)
    compiled = compile_model(Request(models_dir() / f"{options.model}.yaml", chosen, told), Path("build"))
    manifest = compiled.artefact.manifest
    model = load_model(compiled.artefact, build_model(compiled).library)
    initialise(model)
    data = open_data(options.data, manifest.tokenizer, *(manifest.dims[d] for d in ("B", "T", "V")))
    summary = train(model, data, TrainSettings(options.steps, lr, eval_batches=options.batches))
    assert summary.val_loss is not None
    return summary.val_loss, manifest.segments["params"] + manifest.segments["state"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="gpt2-nano")
    parser.add_argument("--target", default="c")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batches", type=int, default=100, help="of the validation")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    options = parser.parse_args()
    print(f"{options.model}, {options.steps:,} steps on {options.data.name}, validation loss\n")
    print(f"| weights | parameters and moments, MiB | {' | '.join(f'lr {lr:g}' for lr in options.lr)} |")
    print(f"|---|---|{'---|' * len(options.lr)}")
    for way in WAYS:
        found = [validation_loss(options, way, lr) for lr in options.lr]
        losses = " | ".join(f"{loss:.4f}" for loss, _ in found)
        print(f"| {way} | {found[0][1] / 2**20:.2f} | {losses} |", flush=True)


if __name__ == "__main__":
    main()
