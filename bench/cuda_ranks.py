"""A training step on several GPUs beside the same step on one: each rank with the same share of work.

    python -m bench.cuda_ranks --batch 32 --seq 1024 --ranks 2 --out bench/results/ranks2_h200.md

Every rank has a batch of its own.  Ranks that exchange nothing show what the GPUs cost each other by other means; two
runs through NCCL must leave the same weights on all ranks, to the bit, and so must two with the optimizer's state
divided.  Needs pycuda, cuda-bindings, nccl4py, mpi4py with a launcher, and nvcc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import publish
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import driver, this_gpu
from gptc.runtime.dist import MpiWorld, join
from gptc.runtime.launch import find_launcher
from gptc.runtime.nccl import NcclExchange
from gptc.runtime.profile import TrainingStep, time_steps

ROOT = Path(__file__).resolve().parent.parent
ALONE, APART, NCCL, ZERO, HOST = WAYS = ("alone", "apart", "nccl", "zero", "host")
WORDS = {
    ALONE: "one GPU", APART: "{n} GPUs that exchange nothing", NCCL: "{n} GPUs, NCCL",
    ZERO: "{n} GPUs, NCCL, `--zero 1`", HOST: "{n} GPUs, `--collectives host`",
}  # fmt: skip
FEW = 5
"""Repeats of what is slow."""
BARE = 20
"""Exchanges of all gradients at once, with nothing beside them."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="gpt2-124m")
    parser.add_argument("--batch", type=int, default=32, help="of each rank")
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(rank(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(report(options, Path(folder))) + "\n"
    publish(text, options.out)


# ---- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A way to train: ms of a step in each repeat, by the rank that took longest; the rest of what ranks say."""

    ms: list[float]
    said: list[dict[str, Any]]


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """The whole run as lines of Markdown."""
    for way in (ALONE, ZERO):
        build_model(compiled(options, folder, way))
    rows = {way: run(options, folder, way) for way in WAYS}
    plain, divided = (agreed(way, rows[way], run(options, folder, way)) for way in (NCCL, ZERO))
    other = "the same" if plain == divided else f"`{divided[:16]}`"
    bare = max(said["exchange"] for said in rows[NCCL].said)
    size = rows[NCCL].said[0]["bytes"]
    bus = 2 * (options.ranks - 1) / options.ranks * size / bare / 1e6
    tokens = options.batch * options.seq
    alone = tokens / float(np.median(rows[ALONE].ms))
    lines = [
        f"# {options.model}, {options.precision}, B {options.batch} on each GPU, T {options.seq}: "
        f"{options.ranks} x {rows[ALONE].said[0]['gpu']}", "",
        f"`python -m bench.cuda_ranks {' '.join(sys.argv[1:])}`", "",
        f"Gradients are {size / 1e6:,.0f} MB of f32. All at once, with nothing beside it, NCCL exchanges them in "
        f"{bare:.2f} ms ({bus:,.0f} GB/s on the bus). All ranks of two runs end with the same weights, with the "
        f"hash `{plain[:16]}`; all ranks of two runs with `--zero 1` do, with {other}.", "",
        "| | ms a step | quartiles | tokens/s | of as many times one GPU | GB a GPU |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for way, row in rows.items():
        ranks = 1 if way == ALONE else options.ranks
        low, middle, high = np.quantile(row.ms, (0.25, 0.5, 0.75))
        speed = ranks * tokens / middle
        lines.append(
            f"| {WORDS[way].format(n=ranks)} | {middle:,.2f} | {low:,.2f} .. {high:,.2f} | {1e3 * speed:,.0f} "
            f"| {speed / ranks / alone:.1%} | {row.said[0]['memory'] / 1e9:,.2f} |"
        )
    return lines


def agreed(way: str, *rows: Row) -> str:
    """The hash of the weights that all ranks of all runs have ended with."""
    found = {said["weights"] for row in rows for said in row.said}
    if len(found) > 1:
        sys.exit(f"{way}: the weights differ between ranks or runs: {found}")
    return str(*found)


def run(options: argparse.Namespace, folder: Path, way: str) -> Row:
    """Start the ranks of one way and gather what they print."""
    launcher = find_launcher()
    if launcher is None:
        sys.exit("no mpiexec")
    own = ["-m", "bench.cuda_ranks", *sys.argv[1:], "--way", way, "--folder", str(folder)]
    done = subprocess.run(
        launcher.command(1 if way == ALONE else options.ranks, [sys.executable, "-m", "mpi4py", *own]),
        env=os.environ | launcher.environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{way}: {done.stderr}")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Row([max(ms) for ms in zip(*(each["ms"] for each in said), strict=True)], said)


# ---- one rank --------------------------------------------------------------------------------------


def compiled(options: argparse.Namespace, folder: Path, way: str) -> Compiled:
    shards = options.ranks if way == ZERO else 1
    chosen = Options(target="cuda", precision=options.precision, ranks=True, shards=shards)
    path = models_dir() / f"{options.model}.yaml"
    return compile_model(Request(path, chosen, batch=options.batch, seq=options.seq), folder)


def rank(options: argparse.Namespace) -> dict[str, Any]:
    """Time steps; what came of them."""
    world = join(HOST if options.way == HOST else NCCL)
    assert isinstance(world, MpiWorld)
    world.meet(this_gpu())
    with world.together():
        made = compiled(options, options.folder, options.way)
        model = CudaModel(made.artefact, build_model(made).library)
        step = TrainingStep(model, world.rank)
        if options.way in (NCCL, ZERO, HOST):
            world.attach(model)
        times = time_steps(step, FEW if options.way == HOST else options.repeats)
        found = {
            "ms": list(times.ms),
            "weights": hashlib.sha256(model.segment("params").tobytes()).hexdigest(),
            "gpu": this_gpu().name,
            "memory": sum(made.artefact.manifest.segments.values()),
            "bytes": 4 * sum(int(np.prod(p.shape)) for p in made.artefact.manifest.params),
        }
        if options.way == NCCL:
            found["exchange"] = bare_exchange(model, found["bytes"])
    return found


def bare_exchange(model: CudaModel, size: int) -> float:
    """Ms of the fastest of some exchanges of so many bytes.  Spoils the model's memory."""
    exchange = model.exchange
    assert isinstance(exchange, NcclExchange)
    address, _ = model.place("state")
    spans = []
    for _ in range(BARE):
        first, last = driver().Event(), driver().Event()
        first.record(model.stream)
        exchange.average([address], [size // 4])
        exchange.wait(address)
        last.record(model.stream)
        last.synchronize()
        spans.append(float(first.time_till(last)))
    return min(spans)


if __name__ == "__main__":
    main()
