"""Loss curves from one set of weights on the same batches: gptc on the CPU in f32, gptc on a GPU in bf16, PyTorch.

    python -m bench.losses tinyshakespeare.txt --steps 200 --out bench/results/losses_h200.md

Needs what `bench.cuda` needs, and the vocabulary of the tokenizer.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers import publish
from bench.torch_gpt2 import GPT2, SIZES, Trainer
from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.data import open_data
from gptc.runtime.init import initialise
from gptc.runtime.loader import Batch
from gptc.runtime.model import Model, load_model
from gptc.runtime.schedule import Schedule

MODEL = "gpt2-124m"
NAMES = {"w": "weight", "b": "bias"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    schedule = Schedule("cosine", options.lr, options.steps, 10, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        cpu = load(Options(), options, Path(folder))
        gpu = load(Options(target="cuda", precision="bf16"), options, Path(folder))
    dims = cpu.artefact.manifest.dims
    data = open_data(options.data, "gpt2", dims["B"], dims["T"], dims["V"])
    batches = [data.train.batch(step) for step in range(options.steps)]
    peer = Trainer(GPT2(SIZES[MODEL]), "cuda", compiled=False)
    copy_weights(cpu, peer.model)
    curves = {
        "gptc, CPU, f32": curve(cpu, batches, schedule),
        "gptc, GPU, bf16": curve(gpu, batches, schedule),
        "PyTorch, GPU, bf16": torch_curve(peer, batches, schedule),
    }
    text = "\n".join(table(curves, options)) + "\n"
    publish(text, options.out)


def load(chosen: Options, options: argparse.Namespace, folder: Path) -> Model:
    request = Request(models_dir() / f"{MODEL}.yaml", chosen, batch=options.batch, seq=options.seq)
    compiled = compile_model(request, folder)
    model = load_model(compiled.artefact, build_model(compiled).library)
    initialise(model)
    return model


def copy_weights(model: Model, peer: torch.nn.Module) -> None:
    """`h.0.qkv.w` is `h.0.qkv.weight` there."""
    tensors: dict[str, Any] = dict(peer.named_parameters())
    for param in model.artefact.manifest.params:
        stem, _, part = param.name.rpartition(".")
        name = f"{stem}.{NAMES[part]}" if stem else f"{param.name}.weight"
        tensors.pop(name).data.copy_(torch.from_numpy(np.asarray(model[param.name])))
    assert not tensors, tensors.keys()


def curve(model: Model, batches: list[Batch], schedule: Schedule) -> list[float]:
    losses = []
    for step, (tokens, targets) in enumerate(batches):
        model["tokens"][...], model["targets"][...] = tokens, targets
        model["lr"][...], model["step"][...] = schedule(step), step + 1.0
        model.run("step")
        losses.append(float(model["loss"]))
    return losses


def torch_curve(peer: Trainer, batches: list[Batch], schedule: Schedule) -> list[float]:
    losses = []
    for step, batch in enumerate(batches):
        for group in peer.optimizer.param_groups:
            group["lr"] = schedule(step)
        tokens, targets = (torch.from_numpy(np.asarray(part)).long().cuda() for part in batch)
        losses.append(float(peer.step(tokens, targets)))
    return losses


def table(curves: dict[str, list[float]], options: argparse.Namespace) -> list[str]:
    """Losses at some steps, and how far the curves are from the first."""
    first, *others = curves
    steps = [0, 1, 2, 4, 9, 19, 49, 99, 149, options.steps - 1]
    lines = [
        f"# {MODEL}, B {options.batch}, T {options.seq}: {options.steps} steps from one set of weights", "",
        f"`python -m bench.losses {' '.join(sys.argv[1:])}`", "",
        f"| step | {' | '.join(curves)} |", "|---:|" + "---:|" * len(curves),
    ]  # fmt: skip
    lines += [f"| {step + 1} | " + " | ".join(f"{c[step]:.6f}" for c in curves.values()) + " |" for step in steps]
    lines.append("")
    for name in others:
        gaps = [a - b for a, b in zip(curves[name], curves[first], strict=True)]
        rms = math.sqrt(sum(gap * gap for gap in gaps) / len(gaps))
        lines.append(f"{name} against {first}: rms {rms:.5f}, mean {sum(gaps) / len(gaps):+.5f}, "
                     f"largest {max(gaps, key=abs):+.5f}.")  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
