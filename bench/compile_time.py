"""How long `gptc compile` takes for GPT-2 124M, the C compiler included: with an empty cache, and again.

    python -m bench.compile_time --out bench/results/compile_time.md

Every repeat has a cache and a folder of its own.  A figure is the median, of wall time in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.peers import FEWEST, MODEL, ROOT, publish
from gptc.runtime.machine import this_machine

PRECISIONS = ("f32", "bf16")


def compile_once(precision: str, folder: Path) -> dict[str, Any]:
    """What `gptc compile --json` says, and `wall`: seconds from start to end of the process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GPTC_CACHE_DIR": str(folder / "cache")}
    flags = ["--precision", precision, "--batch", "4", "--seq", "64", "--out", str(folder / "build"), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gptc", "compile", MODEL, *flags],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(done.stderr)
    return {**json.loads(done.stdout), "wall": wall}


def row(precision: str, repeats: int) -> str:
    cold, warm = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(compile_once(precision, Path(folder)))
            warm.append(compile_once(precision, Path(folder)))
    if warm[0]["compiled_units"] or not warm[0]["cached"]:
        sys.exit("the second compilation was not found in the cache")
    phases = (statistics.median(each["seconds"][phase] for each in cold) for phase in ("passes", "emit", "build"))
    walls = [statistics.median(each["wall"] for each in runs) for runs in (cold, warm)]
    figures = (*phases, *walls)
    return f"| {precision} | {cold[0]['compiled_units']} | {' | '.join(f'{seconds:.2f}' for seconds in figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    if options.repeats < FEWEST:
        parser.error(f"at least {FEWEST} repeats")
    machine = this_machine(os.cpu_count() or 1)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    text = "\n".join([
        "`gptc compile gpt2-124m --batch 4 --seq 64`, a training step and an evaluation, seconds (medians)",
        "",
        "| precision | C files | passes | emit | cc | whole, cold | whole, from the cache |",
        "|---|---|---|---|---|---|---|",
        *(row(precision, options.repeats) for precision in PRECISIONS),
        "",
        f"{compiler}; {machine}; {machine.system}; `python -m bench.compile_time --repeats {options.repeats}`",
        "",
    ])  # fmt: skip
    publish(text, options.out)


if __name__ == "__main__":
    main()
