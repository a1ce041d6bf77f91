"""What a checkpoint costs a training run: how long it stands still, how fast it is written, what steps lose meanwhile.

    python -m bench.checkpoint MODEL --batch 4 --seq 64 --saves 3 --out bench/results/checkpoint.md

Steps on random tokens; a checkpoint is begun, and steps go on until it is on the disk.  The folder is `--folder`, which
should be on the disk that is meant.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.peers import publish
from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cpu import CpuModel
from gptc.runtime.events import Saved, Trouble
from gptc.runtime.history import History
from gptc.runtime.machine import cores, this_machine
from gptc.runtime.saver import Saver

BOUND = 0.035
"""Of a run's time may go to standing still."""


def open_model(path: Path, batch: int, seq: int) -> CpuModel:
    compiled = compile_model(Request(path, Options(), (), batch, seq, 1), Path("build"))
    model = CpuModel(compiled.artefact, build_model(compiled).library)
    rng, params = np.random.default_rng(0), model.segment("params").view(np.float32)
    params[:] = rng.standard_normal(params.size, np.float32) * np.float32(0.02)
    vocabulary = compiled.artefact.manifest.dims["V"]
    for name in ("tokens", "targets"):
        model[name][...] = rng.integers(0, vocabulary, model[name].shape)
    model["lr"][...], model["step"][...] = 1e-4, 1
    return model


def step(model: CpuModel) -> float:
    """Seconds that one takes."""
    began = time.perf_counter()
    model.run("step")
    return time.perf_counter() - began


def measure(model: CpuModel, folder: Path, saves: int) -> list[str]:
    """Rows of the table, one a checkpoint, and what follows from them."""
    saved: list[Saved] = []

    def report(event: Saved | Trouble) -> None:
        assert isinstance(event, Saved), event
        saved.append(event)

    history, rows = History(folder / "checkpoints", keep_last=1), []
    with history.writing():
        saver = Saver(model, history, {}, every=1, report=report)
        step(model)  # touches the memory
        usual = statistics.median(step(model) for _ in range(5))
        for number in range(1, saves + 1):
            saver.save(number, {})
            meanwhile = []
            while len(saved) < number:
                meanwhile.append(step(model))
                saver.poll()
            slower = statistics.mean(meanwhile) / usual - 1
            rate = saved[-1].bytes / saved[-1].seconds / 1e6
            rows.append(
                f"| {saved[-1].bytes / 1e6:,.0f} | {saved[-1].blocked * 1e3:,.0f} | {saved[-1].seconds:.1f} "
                f"| {rate:,.0f} | {slower:+.0%} in {len(meanwhile)} steps |"
            )
    blocked = statistics.median(event.blocked for event in saved)
    every = blocked / BOUND / usual
    waits = f"A step takes {usual * 1e3:,.0f} ms: standing still takes {blocked / usual:.2f} of one"
    seldom = f"less than {BOUND:.1%} of a run that saves every {every:.0f} steps ({every * usual:.0f} s) or more seldom"
    return [*rows, "", f"{waits}, and {seldom}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    model = open_model(options.model, options.batch, options.seq)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        rows = measure(model, Path(name), options.saves)
    lines = [
        f"Checkpoints of {options.model.stem}, parameters and moments in fp32, beside steps of {options.batch} x "
        f"{options.seq} tokens", "",
        "| MB | training stands still, ms | written, flushed and hashed in, s | MB/s | steps meanwhile |",
        "|---|---|---|---|---|", *rows, "",
        f"{this_machine(cores())}; `python -m bench.checkpoint {' '.join(sys.argv[1:])}`",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    publish(text, options.out)


if __name__ == "__main__":
    main()
