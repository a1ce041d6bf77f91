"""A training step on a GPU: gptc, each of its kernels beside the roofline, and PyTorch, in one run.

    python -m bench.cuda --batch 64 --seq 1024 --out bench/results/train_step_h200.md

Checks first that several runs leave the same weights, to the bit.  Needs pycuda, cuda-bindings, nvcc, and torch with
CUDA, all in one interpreter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.peers import publish
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import driver, this_gpu
from gptc.runtime.profile import Call, TrainingStep, calls_of, time_steps

ROOT = Path(__file__).resolve().parent.parent
COPY = 2 << 30
"""Bytes of the copy that shows what memory gives."""
MATRIX = 8192
STEPS = 3
"""Made again and again, to see that they leave the same bytes."""


@dataclass(frozen=True)
class Roof:
    """What the card gives: TFLOP/s of a large bf16 product through cuBLAS, GB/s of a large copy, read and written."""

    tflops: float
    gbs: float

    def ms(self, call: Call) -> float:
        """The least time of a call."""
        return max(call.flops / self.tflops / 1e9, call.bytes / self.gbs / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="gpt2-124m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10, help="times that the same steps are made")
    parser.add_argument("--no-peer", action="store_true", help="without PyTorch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = report(options, Path(folder))
    text = "\n".join(lines) + "\n"
    publish(text, options.out)


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """The whole run as lines of Markdown."""
    peers = [] if options.no_peer else [peer(options, compiled) for compiled in (True, False)]
    chosen = Options(target="cuda", precision=options.precision, remat=options.remat)
    request = Request(models_dir() / f"{options.model}.yaml", chosen, batch=options.batch, seq=options.seq)
    compiled = compile_model(request, folder)
    library = build_model(compiled).library
    before = this_gpu().free
    model = CudaModel(compiled.artefact, library)
    step = TrainingStep(model)
    same = repeats_to_the_bit(step, options.runs)
    times = time_steps(step, options.repeats)
    used = before - this_gpu().free
    spans = [model.time_calls("step") for _ in range(5)]
    medians = [statistics.median(span) for span in zip(*spans, strict=True)]
    del model, step
    roof = probe()
    low, high = times.quartiles
    tokens = options.batch * options.seq
    gpu = this_gpu()
    head = [
        f"# {options.model}, {options.precision}, B {options.batch}, T {options.seq}: a step on {gpu.name}", "",
        f"`python -m bench.cuda {' '.join(sys.argv[1:])}`", "",
        f"A copy gives {roof.gbs:,.0f} GB/s, an {MATRIX}^3 product through cuBLAS {roof.tflops:,.0f} TFLOP/s. "
        f"{same}", "",
        "| step | ms | quartiles | tokens/s | memory, GiB |", "|---|---:|---:|---:|---:|",
        f"| gptc | {times.median:,.1f} | {low:,.1f} .. {high:,.1f} | {1e3 * tokens / times.median:,.0f} "
        f"| {used / 2**30:,.1f} |", *peers, "",
    ]  # fmt: skip
    return head + kernel_table(compiled, medians, roof)


def repeats_to_the_bit(step: TrainingStep, runs: int) -> str:
    """Make the same steps again and again from the same weights, and compare the parameters' bytes after them."""
    model = step.model
    manifest = model.artefact.manifest
    weights = {param.name: np.asarray(model[param.name]) for param in manifest.params}
    found = []
    for _ in range(runs):
        for name, array in weights.items():
            model[name][...] = array
        for tensor in manifest.state:
            model[tensor.name][...] = 0
        step.number = 0
        for _ in range(STEPS):
            step()
        found.append(hashlib.sha256(model.segment("params").tobytes()).hexdigest())
    if len(set(found)) > 1:
        sys.exit(f"the weights differ between runs of the same steps: {found}")
    return f"{runs} runs of {STEPS} steps leave the same weights, with the hash `{found[0][:16]}`."


def probe() -> Roof:
    """Measure the card, when the model's memory is free again."""
    import torch

    source = torch.empty(COPY, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    copies = [_timed(lambda: target.copy_(source)) for _ in range(10)]
    products = [_timed(lambda: torch.mm(a, b)) for _ in range(20)]
    return Roof(2 * MATRIX**3 / statistics.median(products[5:]) / 1e9, 2 * COPY / min(copies) / 1e6)


def _timed(work: object) -> float:
    import torch

    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    work()  # type: ignore[operator]
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def kernel_table(compiled: Compiled, ms: list[float], roof: Roof) -> list[str]:
    """Kernels by falling share: the calls of one together."""
    calls = calls_of(compiled.artefact)["step"]
    rows = []
    for name in dict.fromkeys(call.kernel for call in calls):
        which = [i for i, call in enumerate(calls) if call.kernel == name]
        took, least = sum(ms[i] for i in which), sum(roof.ms(calls[i]) for i in which)
        flops, moved = sum(calls[i].flops for i in which), sum(calls[i].bytes for i in which)
        rows.append((took, f"| `{name}` | {len(which)} | {took:.3f} | {took / sum(ms):.1%} | {flops / took / 1e9:,.1f} "
                           f"| {moved / took / 1e6:,.0f} | {least / took:.0%} |"))  # fmt: skip
    floor = sum(roof.ms(call) for call in calls)
    return [
        "Kernels, launched one by one, with events between them; bytes are those that must move.", "",
        "| kernel | calls | ms | share | TFLOP/s | GB/s | of the roofline |", "|---|---:|---:|---:|---:|---:|---:|",
        *(text for _, text in sorted(rows, reverse=True)),
        f"| all | {len(calls)} | {sum(ms):.3f} | 100.0% | | | {floor / sum(ms):.0%} |",
    ]  # fmt: skip


def peer(options: argparse.Namespace, compiled: bool) -> str:
    """A row for PyTorch, in a process of its own."""
    command = [sys.executable, "-m", "bench.torch_gpt2", "--device", "cuda", "--model", options.model,
               "--batch", str(options.batch), "--seq", str(options.seq), "--repeats", str(options.repeats)]  # fmt: skip
    done = subprocess.run(command + ["--compile"] * compiled, capture_output=True, text=True, cwd=ROOT, check=False)
    name = "PyTorch, torch.compile" if compiled else "PyTorch, eager"
    if done.returncode != 0:
        return f"| {name} | {done.stderr.strip().splitlines()[-1][:80]} | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    ms = np.array(found["repeats"])
    low, middle, high = np.quantile(ms, (0.25, 0.5, 0.75))
    tokens = options.batch * options.seq
    return (f"| {name} {found['torch']} | {middle:,.1f} | {low:,.1f} .. {high:,.1f} | {1e3 * tokens / middle:,.0f} "
            f"| {found['peak_device'] / 2**30:,.1f} |")  # fmt: skip


if __name__ == "__main__":
    driver()
    main()
