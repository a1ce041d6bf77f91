"""Training steps on the CPU: gptc and PyTorch in turns, on one machine, in one run, probes beside.

    python -m bench.peers --torch-python PATH/TO/python --out bench/results/train_step_cpu.md

`--torch-python` is an interpreter that has torch.  A case is a precision and a batch, such as `bf16:1x1024`.  Rounds go
through the cases and alternate between the two, each in a process of its own, so that a slow minute of the machine
hits both; each round of gptc also measures what the machine can do.  A figure is the median over all steps of all
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "gpt2-124m"
PEERS = {MODEL: "torch_gpt2.py", "smollm2-135m": "torch_llama.py"}
FEWEST = 3
CASES = ("f32:4x64", "bf16:4x64", "f32:1x1024", "bf16:1x1024")


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


@dataclass(frozen=True)
class Case:
    """One kind of step, and the two that make it."""

    precision: str
    batch: int
    seq: int
    ours: Peer
    theirs: Peer

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def label(self) -> str:
        return f"{self.precision}, B {self.batch}, T {self.seq}"

    def comparison(self) -> str:
        """A row: how many times as fast, the rate and its share of the peak of the same rounds, the memory."""
        rates = [found["gflops"] for found in self.ours.rounds]
        key = "bf16_gflops" if self.precision == "bf16" else "gflops"
        peaks = [found["probes"][key] for found in self.ours.rounds]
        shares = [100 * rate / peak for rate, peak in zip(rates, peaks, strict=True)]
        return (
            f"| {self.label} | {self.theirs.median / self.ours.median:.2f} | {_range(rates)} "
            f"| {_range(shares)} % | {self.ours.peak / self.theirs.peak:.2f} |"
        )


def case(text: str, options: argparse.Namespace) -> Case:
    """`bf16:1x1024`, with the commands that measure it."""
    match = re.fullmatch(r"(f32|bf16):(\d+)x(\d+)", text)
    if match is None:
        sys.exit(f"not a case: {text!r}; one is {CASES[0]!r}")
    precision, batch, seq = match[1], int(match[2]), int(match[3])
    sizes = ["--batch", match[2], "--seq", match[3], "--repeats", str(options.repeats), "--precision", precision]
    ours = [sys.executable, "-m", "gptc", "bench", "train", options.model, "--json", *sizes]
    theirs = [options.torch_python, str(ROOT / "bench" / PEERS[options.model]), *sizes]
    under, label = shlex.split(options.under), f"{precision}, B {batch}, T {seq}"
    peers = Peer(f"gptc, {label}", [*under, *ours]), Peer(f"PyTorch, {label}", [*under, *theirs])
    return Case(precision, batch, seq, *peers)


def report(cases: Sequence[Case], options: argparse.Namespace) -> str:
    """The Markdown text: times, comparison, probes, machine, command."""
    rounds = [found for each in cases for found in each.ours.rounds]
    peaks = [found["probes"] for found in rounds]
    narrow = [p["bf16_gflops"] for p in peaks if p["bf16_gflops"]]
    model = "" if options.model == MODEL else f"--model {options.model} "
    command = f"{model}--case {' '.join(options.case)} --repeats {options.repeats} --rounds {options.rounds}"
    lines = [
        f"{options.model}, one training step (forward, backward, clipping, AdamW)",
        "",
        "| | ms, median | quartiles | steps | tokens/s | peak MiB |",
        "|---|---|---|---|---|---|",
        *(peer.row(each.tokens) for each in cases for peer in (each.ours, each.theirs)),
        "",
        f"gptc beside PyTorch {cases[-1].theirs.rounds[-1]['torch']}, eager, fused AdamW, bf16 by autocast:",
        "",
        "| | times as fast | GFLOP/s over the whole step | of the probed peak | share of PyTorch's memory |",
        "|---|---|---|---|---|",
        *(each.comparison() for each in cases),
        "",
        f"Probes in each round: {_range([p['gflops'] for p in peaks])} GFLOP/s of multiply-adds"
        f"{f' ({_range(narrow)} of bf16)' if narrow else ''}, "
        f"{_range([p['read_gbs'] for p in peaks])} GB/s read, {_range([p['triad_gbs'] for p in peaks])} GB/s triad.",
        *closing(rounds, f"python -m bench.peers --torch-python PYTHON {command}"),
    ]
    return "\n".join(lines) + "\n"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return low if low == high else f"{low} .. {high}"


def closing(rounds: Sequence[Mapping[str, Any]], command: str) -> list[str]:
    """The last lines of a report: what else ran during its rounds, as far as they know, the machine, the command."""
    others = [found["neighbours"] for found in rounds if found.get("neighbours") is not None]
    warnings = sorted({found["warning"] for found in rounds if found.get("warning")})
    machine = rounds[-1]["machine"]
    return [
        *([f"Meanwhile other processes used {min(others):.1f} .. {max(others):.1f} cores."] if others else []),
        *(["", f"Beware: {'; '.join(warnings)}."] if warnings else []),
        "",
        f"{machine['threads']} threads on {machine['cores']} cores of {machine['cpu']}; {machine['system']}; "
        f"`{command}`",
    ]


def publish(text: str, out: Path | None) -> None:
    """Print a report, and write it where it was asked for."""
    print(text, end="")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch")
    parser.add_argument("--model", choices=PEERS, default=MODEL)
    parser.add_argument("--case", nargs="+", default=list(CASES), help="PRECISION:BATCHxSEQ")
    parser.add_argument("--repeats", type=int, default=3, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--under", default="", help="a command that runs each process, such as `nice -n -10`")
    parser.add_argument("--out", type=Path, help="also write the tables here")
    options = parser.parse_args()
    if options.repeats < FEWEST or options.rounds < 1:
        parser.error(f"at least {FEWEST} repeats and 1 round")
    cases = [case(text, options) for text in options.case]
    for number in range(options.rounds):
        for peer in (peer for each in cases for peer in (each.ours, each.theirs)):
            print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr)
            peer.run()
    publish(report(cases, options), options.out)


if __name__ == "__main__":
    main()
