"""What narrow weights cost: the same weights generated from in f32, bf16 and int8.

    python -m gptc train gpt2-nano --data TEXT
    python -m bench.quality gpt2-nano --weights runs/gpt2-nano/weights.safetensors --data TEXT

Every token of windows at the end of the text is predicted from caches, as generation does.  Without --weights the model
has its initial ones: its losses then say nothing, but what becomes of its logits does.  The error of logits is a root
mean square, as a share of that of f32's logits about their mean.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.peers import publish
from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached
from gptc.runtime.init import initialise
from gptc.runtime.tokenizer import load_tokenizer
from gptc.runtime.weights import load_weights

Scores = NDArray[np.float64]


@dataclass
class Weights:
    """A model with weights in one format, and how its predictions compare with those of f32."""

    precision: str
    model: CpuModel
    losses: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    """Of the losses."""
    error: float = 0.0
    spread: float = 0.0
    """Sums of squares: of what the logits are off, and of f32's logits about their mean."""
    same: int = 0
    """Predictions whose likeliest token is that of f32."""

    def compare(self, scores: Scores, wide: Scores, targets: NDArray[np.int64]) -> None:
        """`scores` and those of f32, [n, V], for tokens of which `targets` came next."""
        losses, before = loss(scores, targets), loss(wide, targets)
        self.losses += losses.tolist()
        self.changes += (losses - before).tolist()
        self.error += float(np.square(scores - wide).sum())
        self.spread += float(np.square(wide - wide.mean(-1, keepdims=True)).sum())
        self.same += int((scores.argmax(-1) == wide.argmax(-1)).sum())

    def row(self) -> str:
        mean, changes = float(np.mean(self.losses)), np.array(self.changes)
        cells = (
            f"{mean:.5f}", f"{math.exp(mean):,.4f}", f"{changes.mean():+.5f}", f"{np.abs(changes).max():.4f}",
            f"{math.sqrt(self.error / self.spread):.3%}", f"{self.same / len(self.losses):.2%}",
        )  # fmt: skip
        return f"| {self.precision} | {' | '.join(cells)} |"


def loss(scores: Scores, targets: NDArray[np.int64]) -> Scores:
    """-log p of each target, f64[n]."""
    top = scores.max(-1)
    norm = np.log(np.exp(scores - top[:, None]).sum(-1))
    return np.asarray(top + norm - np.take_along_axis(scores, targets[:, None], -1)[:, 0])


def predict(model: CpuModel, window: list[int]) -> Scores:
    """Logits after each token of a window but the last, f64[n, V]."""
    source, vocabulary = Cached(model), model.artefact.manifest.dims["V"]
    ends = range(1, len(window))
    return np.array([source.logits(window[:end], 0)[:vocabulary].astype(np.float64) for end in ends])


def load(name: str, precision: str, seq: int | None, weights: Path | None) -> CpuModel:
    request = Request(models_dir() / f"{name}.yaml", Options(mode="infer", precision=precision), (), 1, seq)
    compiled = compile_model(request, Path("build"))
    model = CpuModel(compiled.artefact, build_model(compiled).library)
    if weights:
        load_weights(model, weights)
    else:
        initialise(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped model, such as gpt2-nano")
    parser.add_argument("--weights", type=Path, help="trained ones (the initial ones)")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--seq", type=int, help="tokens in a window (the model's)")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()

    found = [Weights(p, load(options.model, p, options.seq, options.weights)) for p in ("f32", "bf16", "int8")]
    manifest = found[0].model.artefact.manifest
    seq, codec = manifest.dims["T"], load_tokenizer(manifest.tokenizer)
    ids = np.asarray(codec.encode(options.data.read_bytes()))
    count = min(options.windows, len(ids) // seq)
    for window in ids[len(ids) - count * seq :].reshape(count, seq):
        wide = predict(found[0].model, window.tolist())
        for each in found:
            scores = wide if each is found[0] else predict(each.model, window.tolist())
            each.compare(scores, wide, window[1:])

    kind = "trained" if options.weights else "initial"
    lines = [
        f"{options.model}, {kind} weights, {len(found[0].losses):,} tokens of {options.data.name}, windows of {seq}",
        "",
        "| weights | loss | perplexity | difference to f32 | largest of a token | logits off by | same likeliest |",
        "|---|---|---|---|---|---|---|",
        *(each.row() for each in found),
    ]
    publish("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
