"""One GPT-2 124M training step on the CPU, gptc and PyTorch in turns, on one machine in one run.

    python bench/train_step.py --torch-python PATH/TO/python --out bench/results/train_step_cpu.md

`--torch-python` is an interpreter that has torch; without it only gptc is measured.  Rounds alternate between the
two, so that a slow minute of the machine hits both.  A figure is the median over all steps of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def measure_gptc(batch: int, seq: int, repeats: int) -> dict[str, object]:
    """Times of `repeats` steps after two to warm up, and the peak memory of the process."""
    from gptc.compiler import Request, build_model, compile_model
    from gptc.runtime.cpu import CpuModel
    from gptc.runtime.init import initialise

    request = Request(ROOT / "models/gpt2-124m.yaml", batch=batch, seq=seq)
    compiled = compile_model(request, ROOT / "build")
    model = CpuModel(compiled.artefact, build_model(compiled).library)
    initialise(model)
    ids = np.random.default_rng(42).integers(0, 50257, (batch, seq + 1), dtype=np.int32)
    model["tokens"][...], model["targets"][...] = ids[:, :-1], ids[:, 1:]
    model["lr"][...], times = 1e-4, []
    for step in range(repeats + 2):
        model["step"][...] = step + 1
        began = time.perf_counter()
        model.run("step")
        times.append(1e3 * (time.perf_counter() - began))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"repeats": times[2:], "loss": float(model["loss"]), "peak_mib": peak / 1024}


def run(command: list[str]) -> dict[str, object]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(name: str, times: list[float], batch: int, seq: int, peak: float) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    speed = 1e3 * batch * seq / middle
    return f"| {name} | {middle:,.0f} | {low:,.0f} .. {high:,.0f} | {len(times)} | {speed:,.0f} | {peak:,.0f} |"


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = ["--batch", str(options.batch), "--seq", str(options.seq), "--repeats", str(options.repeats)]
    if options.one:
        print(json.dumps(measure_gptc(options.batch, options.seq, options.repeats)))
        return
    commands = {"gptc": [sys.executable, __file__, "--one", *sizes]}
    if options.torch_python:
        commands["PyTorch eager"] = [options.torch_python, str(ROOT / "bench/torch_gpt2.py"), *sizes]
    times: dict[str, list[float]] = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0.0)
    for _ in range(options.rounds):
        for name, command in commands.items():
            result = run(command)
            times[name] += result["repeats"]  # type: ignore[operator]
            peaks[name] = max(peaks[name], float(result["peak_mib"]))  # type: ignore[arg-type]
    table = [
        f"GPT-2 124M, one training step (forward, backward, clipping, AdamW), fp32, B {options.batch}, T {options.seq}",
        "",
        "| | ms, median | quartiles | steps | tokens/s | peak MiB |",
        "|---|---|---|---|---|---|",
        *(row(name, t, options.batch, options.seq, peaks[name]) for name, t in times.items()),
        "",
        f"{os.cpu_count()} cores of {cpu_name()}; Python {platform.python_version()}; "
        f"`python bench/train_step.py {' '.join(sizes)} --rounds {options.rounds}`",
    ]
    if len(times) == 2:
        ratio = statistics.median(times["PyTorch eager"]) / statistics.median(times["gptc"])
        table.insert(-1, f"gptc is {ratio:.2f} times as fast.\n")
    text = "\n".join(table) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
