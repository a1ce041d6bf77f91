"""One GPT-2 124M training step on the CPU: gptc and PyTorch in turns, on one machine, in one run, probes beside.

    python bench/peers.py --torch-python PATH/TO/python --out bench/results/train_cpu.md

`--torch-python` is an interpreter that has torch.  Rounds alternate between the two, each in a process of its own,
so that a slow minute of the machine hits both; each round of gptc also measures what the machine can do.
A figure is the median over all steps of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "gpt2-124m"
FEWEST = 3


@dataclass
class Peer:
    """One way to make the step, and what its rounds gave."""

    name: str
    command: list[str]
    ms: list[float] = field(default_factory=list)
    peak: float = 0.0
    """Bytes."""
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """One round: the last line on stdout is an object with `repeats` in ms and `peak_rss` in bytes."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(self.command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.name}: exit code {done.returncode}: {' '.join(self.command)}\n{done.stderr.strip()}")
        found = json.loads(done.stdout.splitlines()[-1])
        self.ms += found["repeats"]
        self.peak = max(self.peak, found["peak_rss"])
        self.rounds.append(found)

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def row(self, tokens: int) -> str:
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return (
            f"| {self.name} | {self.median:,.0f} | {low:,.0f} .. {high:,.0f} | {len(self.ms)} "
            f"| {1e3 * tokens / self.median:,.0f} | {self.peak / 2**20:,.0f} |"
        )


def report(ours: Peer, theirs: Peer, options: argparse.Namespace) -> str:
    """The Markdown text: table, ratio, probes, machine, command."""
    machine, peaks = ours.rounds[-1]["machine"], [found["probes"] for found in ours.rounds]
    rates = [found["gflops"] for found in ours.rounds]
    others = [found["neighbours"] for found in ours.rounds if found["neighbours"] is not None]
    warnings = sorted({found["warning"] for found in ours.rounds} - {None})
    sizes = f"--batch {options.batch} --seq {options.seq} --repeats {options.repeats} --rounds {options.rounds}"
    lines = [
        f"GPT-2 124M, one training step (forward, backward, clipping, AdamW), fp32, B {options.batch}, T {options.seq}",
        "",
        "| | ms, median | quartiles | steps | tokens/s | peak MiB |",
        "|---|---|---|---|---|---|",
        *(peer.row(options.batch * options.seq) for peer in (ours, theirs)),
        "",
        f"gptc is {theirs.median / ours.median:.2f} times as fast as PyTorch {theirs.rounds[-1]['torch']}: "
        f"{_range(rates)} GFLOP/s over the whole step.",
        "",
        f"Probes in each round: {_range([p['gflops'] for p in peaks])} GFLOP/s of multiply-adds, "
        f"{_range([p['read_gbs'] for p in peaks])} GB/s read, {_range([p['triad_gbs'] for p in peaks])} GB/s triad.",
        *([f"Meanwhile other processes used {min(others):.1f} .. {max(others):.1f} cores."] if others else []),
        *(["", f"Beware: {'; '.join(warnings)}."] if warnings else []),
        "",
        f"{machine['threads']} threads on {machine['cores']} cores of {machine['cpu']}; {machine['system']}; "
        f"`python bench/peers.py --torch-python PYTHON {sizes}`",
    ]
    return "\n".join(lines) + "\n"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return low if low == high else f"{low} .. {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    if options.repeats < FEWEST or options.rounds < 1:
        parser.error(f"at least {FEWEST} repeats and 1 round")
    sizes = ["--batch", str(options.batch), "--seq", str(options.seq), "--repeats", str(options.repeats)]
    ours = Peer("gptc", [sys.executable, "-m", "gptc", "bench", "train", MODEL, "--json", *sizes])
    theirs = Peer("PyTorch eager", [options.torch_python, str(ROOT / "bench/torch_gpt2.py"), *sizes])
    for number in range(options.rounds):
        for peer in (ours, theirs):
            print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr)
            peer.run()
    text = report(ours, theirs, options)
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
