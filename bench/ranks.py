"""A training step on one rank with all cores, and on ranks that share cores and batch, with and without ZeRO.

    python -m bench.ranks MODEL --batch 4 --seq 64 --micro-steps 1 4 --out bench/results/ranks_cpu.md

Every row is a job of its own, started by the MPI launcher, on random tokens.  `waiting` is the share of a step in which
the main thread of the first rank waits for others: what the exchange costs beyond what overlaps with the backward pass,
and what ranks wait because one of them is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import publish
from gptc.compiler import Compiled, build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cpu import CpuModel
from gptc.runtime.dist import MpiWorld, join
from gptc.runtime.job import launcher
from gptc.runtime.machine import cores, this_machine

COLUMNS = (
    "ranks x threads",
    "B a rank",
    "micro-steps",
    "ZeRO",
    "ms a step",
    "waiting",
    "state MB",
    "arena MB",
    "all MB",
)


@dataclass(frozen=True)
class Row:
    """A job: `ranks` that share `batch` sequences of each of its micro-steps."""

    model: str
    ranks: int
    batch: int
    seq: int
    micro_steps: int
    zero: bool
    steps: int

    def compiled(self) -> Compiled:
        options = Options(ranks=self.ranks > 1, shards=self.ranks if self.zero else 1)
        request = Request(Path(self.model), options, (), self.batch // self.ranks, self.seq, self.micro_steps)
        return compile_model(request, Path("build"))


def measure(row: Row) -> None:
    """What each rank runs; the first prints the times of its steps and what it waited in each."""
    world = join()
    assert isinstance(world, MpiWorld)
    with world.together():
        compiled = row.compiled()
        model = CpuModel(compiled.artefact, build_model(compiled).library)
        model.set_threads(cores() // row.ranks)
        rng = np.random.default_rng(world.rank)
        if world.leads:
            params = model.segment("params").view(np.float32)
            params[:] = rng.standard_normal(params.size, np.float32) * np.float32(0.02)
        if row.ranks > 1:
            world.attach(model)
        waited = timed_waits(world)
        took = []
        for step in range(row.steps + 1):  # the first touches the memory
            waited.append(0.0)
            began = time.perf_counter()
            run_step(model, row, step, rng)
            took.append(time.perf_counter() - began)
    if world.leads:
        print(json.dumps({"seconds": took[1:], "waited": waited[1:]}))


def timed_waits(world: MpiWorld) -> list[float]:
    """Seconds that the main thread waits for others; they are added to the last of the list."""
    waited: list[float] = []
    waiting = world.pulse.waiting

    @contextmanager
    def timed() -> Any:
        began = time.perf_counter()
        with waiting():
            yield
        waited[-1] += time.perf_counter() - began

    def replaced() -> AbstractContextManager[None]:
        return timed()

    world.pulse.waiting = replaced  # type: ignore[method-assign]
    return waited


def run_step(model: CpuModel, row: Row, step: int, rng: np.random.Generator) -> None:
    vocabulary = model.artefact.manifest.dims["V"]
    model["lr"][...], model["step"][...] = 1e-4, step + 1
    for micro in range(row.micro_steps):
        model["tokens"][...] = rng.integers(0, vocabulary, model["tokens"].shape)
        model["targets"][...] = rng.integers(0, vocabulary, model["targets"].shape)
        if row.micro_steps > 1:
            model["first"][...] = float(micro == 0)
        model.run("step" if row.micro_steps == 1 else "micro_step")
    if row.micro_steps > 1:
        model.run("update")


def run(row: Row) -> str:
    """The row of the table."""
    start = launcher()
    argv = [sys.executable, "-m", "mpi4py", "-m", "bench.ranks", "--job", json.dumps(vars(row))]
    environment = os.environ | start.environment
    done = subprocess.run(start.command(row.ranks, argv), env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    seconds = statistics.median(found["seconds"])
    share = statistics.median(w / s for w, s in zip(found["waited"], found["seconds"], strict=True))
    sizes = row.compiled().artefact.manifest.segments
    cells: Sequence[object] = (
        f"{row.ranks} x {cores() // row.ranks}", row.batch // row.ranks, row.micro_steps, 1 if row.zero else "",
        f"{seconds * 1e3:,.0f} ({min(found['seconds']) * 1e3:,.0f} .. {max(found['seconds']) * 1e3:,.0f})",
        f"{share:.1%}" if row.ranks > 1 else "", *(f"{sizes[s] / 1e6:,.0f}" for s in ("state", "arena")),
        f"{sum(sizes.values()) / 1e6:,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--micro-steps", type=int, nargs="+", default=[1])
    parser.add_argument("--ranks", type=int, default=cores())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--build", action="store_true", help="only compile, so that a second run measures only")
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        measure(Row(**json.loads(options.job)))
        return
    kinds = [(1, False), (options.ranks, False), (options.ranks, True)]
    rows = [
        Row(options.model, ranks, options.batch, options.seq, micro, zero, options.steps)
        for micro in options.micro_steps
        for ranks, zero in kinds
    ]
    for row in rows:
        build_model(row.compiled())
    if options.build:
        return
    about = f"{Path(options.model).stem}, {options.batch} sequences of {options.seq} tokens a micro-step, fp32"
    lines = [
        f"{about}: {options.steps} steps after a first, median (least .. most); memory is that of one rank", "",
        f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *map(run, rows), "",
        f"{this_machine(cores())}; `python -m bench.ranks {' '.join(sys.argv[1:])}`",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    publish(text, options.out)


if __name__ == "__main__":
    main()
