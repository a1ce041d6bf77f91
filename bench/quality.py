"""What narrow weights cost: the loss of one set of trained weights, generated from in f32, bf16 and int8.

    python -m gptc train gpt2-nano --data TEXT
    python -m bench.quality --weights runs/gpt2-nano/weights.safetensors --data TEXT

Every token of windows at the end of the text is predicted from caches, as generation does.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gptc.compiler import Request, build_model, compile_model
from gptc.options import Options
from gptc.resources import models_dir
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached
from gptc.runtime.tokenizer import load_tokenizer
from gptc.runtime.weights import load_weights


def losses(model: CpuModel, ids: np.ndarray, seq: int) -> np.ndarray:
    """f64: -log p of each token after the first of each window."""
    found = []
    vocab = model.artefact.manifest.dims["V"]
    for start in range(0, len(ids) - seq, seq):
        source, window = Cached(model), ids[start : start + seq].tolist()
        for count in range(1, seq):
            scores = source.logits(window[:count], 0)[:vocab].astype(np.float64)
            top = scores.max()
            found.append(top + np.log(np.exp(scores - top).sum()) - scores[window[count]])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=64)
    options = parser.parse_args()
    lines = ["| weights | loss | perplexity | difference to f32 | largest of a token |", "|---|---|---|---|---|"]
    first = None
    for precision in ("f32", "bf16", "int8"):
        request = Request(models_dir() / "gpt2-nano.yaml", Options(mode="infer", precision=precision), batch=1)
        compiled = compile_model(request, Path("build"))
        model = CpuModel(compiled.artefact, build_model(compiled).library)
        load_weights(model, options.weights)
        seq, codec = model.artefact.manifest.dims["T"], load_tokenizer(model.artefact.manifest.tokenizer)
        ids = np.asarray(codec.encode(options.data.read_bytes()))[-options.windows * seq - 1 :]
        found = losses(model, ids, seq)
        first = found if first is None else first
        change = found - first
        lines.append(f"| {precision} | {found.mean():.5f} | {np.exp(found.mean()):.4f} | {change.mean():+.5f} "
                     f"| {np.abs(change).max():.4f} |")  # fmt: skip
    print(f"gpt2-nano, {len(found):,} tokens of {options.data.name}", *lines, sep="\n")


if __name__ == "__main__":
    main()
