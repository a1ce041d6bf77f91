"""Tokenising beside tiktoken, and the loader beside a training step.

    TIKTOKEN_CACHE_DIR=FOLDER python -m bench.data TEXT --step-ms 482 --out bench/results/data.md

`TEXT` is written several times into one file of at least `--mib`.  All of `gptc data prepare` is timed: starting
processes, reading, encoding, writing, hashing.  tiktoken's own is `encode_ordinary_batch` on text that is in memory,
with as many threads.  Both take turns, and of the rounds the median counts.  The loader serves batches from a shard;
`--step-ms` is what a step takes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tiktoken

from bench.peers import publish
from gptc.corpus.prepare import Preparation, prepare
from gptc.corpus.sources import find_sources
from gptc.runtime.hashing import file_hash
from gptc.runtime.loader import SHUFFLE_SEED, Loader
from gptc.runtime.machine import cores, this_machine
from gptc.runtime.shard import open_shard, write_shard

PART = 200_000
"""Characters in a text of tiktoken's batch."""
SHAPES = ((4, 64), (4, 1024), (64, 1024))
BATCHES, TOKENS = 2000, 50_000_000


def seconds(run: Callable[[], int]) -> tuple[float, int]:
    """How long it takes, and what it counts."""
    start = time.perf_counter()
    count = run()
    return time.perf_counter() - start, count


def tokenising(text: Path, folder: Path, rounds: int) -> list[str]:
    """Rows of the table: tokens a second of each way."""
    encoding, threads = tiktoken.get_encoding("gpt2"), cores()
    content = text.read_text()
    parts = [content[at : at + PART] for at in range(0, len(content), PART)]

    def theirs() -> int:
        return sum(map(len, encoding.encode_ordinary_batch(parts, num_threads=threads)))

    def ours() -> int:
        shutil.rmtree(folder / "out", ignore_errors=True)
        how = Preparation("gpt2", folder / "out", "text", processes=threads)
        dataset = prepare(find_sources([text], "text"), (), how, lambda now: None)
        return sum(shard.tokens for shard in (*dataset.train, *dataset.val))

    rates: dict[str, list[float]] = {"tiktoken": [], "gptc": []}
    for _ in range(rounds):
        for name, run in (("tiktoken", theirs), ("gptc", ours)):
            took, count = seconds(run)
            rates[name].append(count / took / 1e6)
    median = {name: statistics.median(found) for name, found in rates.items()}
    return [
        f"| tiktoken, {threads} threads, in memory | {spread(rates['tiktoken'])} | |",
        f"| gptc data prepare, {threads} processes, file to shards | {spread(rates['gptc'])} "
        f"| {median['gptc'] / median['tiktoken']:.0%} |",
    ]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


def loading(folder: Path, step_ms: float) -> list[str]:
    """Rows of the table: microseconds a batch, read, checked, and turned into what a program takes."""
    path = folder / "shard.bin"
    write_shard(path, np.random.default_rng(0).integers(0, 50257, TOKENS))
    rows = []
    for batch, seq in SHAPES:
        loader = Loader([open_shard(path)], batch, seq, 50257, SHUFFLE_SEED)
        inputs, targets = np.empty((batch, seq), np.int32), np.empty((batch, seq), np.int32)
        loader.batch(0)  # the permutation
        took = []
        for index in range(min(BATCHES, loader.samples)):
            start = time.perf_counter()
            inputs[...], targets[...] = loader.batch(index)
            took.append(time.perf_counter() - start)
        micros = statistics.median(took) * 1e6
        share = f"{micros / step_ms / 10:.4f} %" if (batch, seq) == SHAPES[0] else ""
        rows.append(f"| {batch} x {seq} | {micros:.1f} | {share} |")
    tokens = SHAPES[0][0] * SHAPES[0][1]
    shard = replace(open_shard(path), sha256=file_hash(path))
    took, _ = seconds(lambda: shard.verify() or 1)
    share = took * 1e3 / (step_ms * TOKENS / tokens)
    return [
        *rows, "", f"Opening that shard, compared with its hash: {took * 1e3:.0f} ms "
        f"({path.stat().st_size / took / 1e9:.1f} GB/s), {100 * share:.5f} % of the steps that read it.",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step-ms", type=float, required=True, help=f"a step of GPT-2 124M at {SHAPES[0]}")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = options.text.read_bytes()
        text = folder / "text.txt"
        text.write_bytes(content * -(-options.mib * 2**20 // len(content)))
        lines = [
            f"{text.stat().st_size / 1e6:.0f} MB of text to ids of gpt2, {options.rounds} rounds in turns, median "
            "(least .. most)", "", "| | million tokens/s | of tiktoken |", "|---|---|---|",
            *tokenising(text, folder, options.rounds), "",
            f"The loader: a batch from a shard of 50 million tokens, shuffled, checked, as int32; beside a step of "
            f"{options.step_ms:g} ms", "", "| B x T | microseconds | of a step |", "|---|---|---|",
            *loading(folder, options.step_ms), "",
            f"{this_machine(cores())}; `python -m bench.data TEXT --mib {options.mib} --rounds {options.rounds} "
            f"--step-ms {options.step_ms:g}`, TEXT: {options.text.name}",
        ]  # fmt: skip
    text_out = "\n".join(lines) + "\n"
    publish(text_out, options.out)


if __name__ == "__main__":
    main()
