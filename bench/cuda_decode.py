"""GPT-2 124M generating on a GPU: gptc in several formats and PyTorch with torch.compile and CUDA graphs, in one run.

    python -m bench.cuda_decode --out bench/results/decode_h200.md

Checks first that the same token gives the same logits, to the bit.  Needs pycuda, cuda-bindings, nvcc, and torch with
CUDA, all in one interpreter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cuda import ROOT, probe
from bench.peers import publish
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cuda import CudaModel
from gptc.runtime.decoding import Decoding
from gptc.runtime.device import driver, this_gpu
from gptc.runtime.profile import WARM_UP

CASES = (("bf16", 1), ("f16", 1), ("f32", 1), ("bf16", 8), ("bf16", 64))
"""Formats and batches of ours."""
PEERS = (1, 64)
"""Batches of PyTorch, in bf16."""


@dataclass(frozen=True)
class Row:
    """One line of the table; times in ms."""

    name: str
    precision: str
    batch: int
    tokens: Sequence[float]
    prompts: Sequence[float]
    bytes: int = 0
    """That a token must fetch; 0 where nobody has counted them."""

    def text(self, gbs: float) -> str:
        token, prompt = statistics.median(self.tokens), statistics.median(self.prompts)
        low, _, high = statistics.quantiles(self.tokens, n=4, method="inclusive")
        rate = self.bytes / token / 1e6
        share = f"{rate:,.0f} GB/s, {rate / gbs:.0%}" if self.bytes else ""
        times = f"{1e3 * token:,.1f}", f"{1e3 * low:,.1f} .. {1e3 * high:,.1f}", f"{1e3 * self.batch / token:,.0f}"
        cells = (self.name, self.precision, f"{self.batch}", *times, share, f"{prompt:,.2f}")
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=254, help="tokens that are timed")
    parser.add_argument("--no-peer", action="store_true", help="without PyTorch")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        compiled = [compiled_for(case, options, Path(folder)) for case in CASES]
        libraries = list(pool.map(lambda each: build_model(each).library, compiled))
        rows = [ours(*each, options) for each in zip(CASES, compiled, libraries, strict=True)]
    rows += [] if options.no_peer else [peer(batch, options) for batch in PEERS]
    publish("\n".join(report(rows, options)) + "\n", options.out)


def compiled_for(case: tuple[str, int], options: argparse.Namespace, folder: Path) -> Compiled:
    precision, batch = case
    chosen = Options(target="cuda", precision=precision, mode="infer")
    seq = options.prompt + WARM_UP + options.repeats
    return compile_model(Request(models_dir() / "gpt2-124m.yaml", chosen, batch=batch, seq=seq), folder)


def ours(case: tuple[str, int], compiled: Compiled, library: Path, options: argparse.Namespace) -> Row:
    precision, batch = case
    model = CudaModel(compiled.artefact, library)
    decoding = Decoding(model, options.prompt, options.repeats)
    prompts, tokens = decoding.time()
    found = set()
    for _ in range(10):
        decoding.decode(decoding.seq - 1)
        found.add(np.asarray(model["logits"]).tobytes())
    if len(found) > 1:
        sys.exit(f"{len(found)} different logits of the same token in {precision}, batch {batch}")
    return Row("gptc", precision, batch, tokens.ms, prompts.ms, decoding.bytes_of_token())


def peer(batch: int, options: argparse.Namespace) -> Row:
    """PyTorch, in a process of its own."""
    command = [sys.executable, "-m", "bench.torch_cuda_decode", "--batch", str(batch), "--prompt", str(options.prompt),
               "--tokens", str(options.repeats)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Row(f"PyTorch {found['torch']}, torch.compile", "bf16", batch, found["tokens"], found["prompts"])


def report(rows: Sequence[Row], options: argparse.Namespace) -> list[str]:
    """The table, and what a reader must know of it."""
    gbs = probe().gbs
    command = " ".join(["python -m bench.cuda_decode", *sys.argv[1:]])
    return [
        f"# GPT-2 124M generating on {this_gpu().name}",
        "",
        f"`{command}`: {options.repeats} tokens after a prompt of {options.prompt}.",
        "",
        f"A copy gives {gbs:,.0f} GB/s, read and written. Ten times the same token gave the same logits, to the bit, "
        "in every row of gptc. gptc's times are those of single tokens, from the token on the host to the end of its "
        "logits; PyTorch's are means over whole texts, whose tokens stay on the device.",
        "",
        "| | weights | batch | us a token | quartiles | tokens/s | of a copy's bandwidth | ms the prompt |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(row.text(gbs) for row in rows),
    ]


if __name__ == "__main__":
    driver()
    main()
