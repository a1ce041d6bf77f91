"""One GPT-2 124M training step for several instruction sets of one processor, in turns, kernel by kernel.

    python -m bench.instruction_sets --out bench/results/instruction_sets.md

Rounds alternate between the sets, each in a process of its own with probes of what the set can do on this machine.
A figure is the median over all steps of all rounds, of a kernel over all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import FEWEST, MODEL, Peer, closing, publish

SETS = {"AVX-512": "native", "AVX2": "x86-64-v3"}


def command(march: str, options: argparse.Namespace) -> list[str]:
    sizes = ["--batch", str(options.batch), "--seq", str(options.seq), "--repeats", str(options.repeats)]
    flags = ["--no-tune", "--march", march, "--json", *sizes]
    return [sys.executable, "-m", "gptc", "bench", "kernels", MODEL, *flags]


def kernels(peer: Peer) -> dict[tuple[object, ...], dict[str, float]]:
    """Medians over the rounds, by what tells a kernel apart under any instruction set."""
    found: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for kernel in (kernel for each in peer.rounds for kernel in each["kernels"]):
        stem = kernel["kernel"].rpartition("_")[0]
        found.setdefault((stem, kernel["calls"], kernel["flops"], kernel["bytes"]), []).append(kernel)
    figures = ("ms", "of_peak", "of_memory", "gflops", "gbs")
    return {key: {f: statistics.median(k[f] for k in each) for f in figures} for key, each in found.items()}


def report(peers: Sequence[Peer], options: argparse.Namespace) -> str:
    """The Markdown text: the step, its kernels, probes, machine, command."""
    first, second = peers
    lines = [
        f"GPT-2 124M, one training step (forward, backward, clipping, AdamW), fp32, B {options.batch}, T {options.seq}",
        "for two instruction sets of one processor, the kernels' defaults",
        "",
        "| | ms, median | quartiles | steps | tokens/s | peak MiB |",
        "|---|---|---|---|---|---|",
        *(peer.row(options.batch * options.seq) for peer in peers),
        "",
    ]
    for peer in peers:
        probes = [each["probes"] for each in peer.rounds]
        figures = ", ".join(
            f"{statistics.median(p[key] for p in probes):,.0f} {what}"
            for key, what in (
                ("gflops", "GFLOP/s of multiply-adds"),
                ("read_gbs", "GB/s read"),
                ("triad_gbs", "GB/s triad"),
            )
        )
        lines.append(f"Probed with {peer.name}: {figures}.  ")
    lines += [
        "",
        "Kernels of at least 0.2 % of the step; shares are of the set's own probed multiply-adds and of memory's best",
        "probe, which a kernel exceeds where its operands are still in a cache:",
        "",
        f"| kernel | calls | {first.name} ms | of peak | of memory | {second.name} ms | of peak | of memory | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    one, two = kernels(first), kernels(second)
    for key, mine in sorted(one.items(), key=lambda item: -item[1]["ms"]):
        theirs = two[key]
        if mine["ms"] > 0.002 * first.median:
            cells = (f"{k['ms']:,.2f} | {k['of_peak']:.0%} | {k['of_memory']:.0%}" for k in (mine, theirs))
            lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} | {theirs['ms'] / mine['ms']:.2f} |")
    sizes = f"--batch {options.batch} --seq {options.seq} --repeats {options.repeats} --rounds {options.rounds}"
    rounds = [found for peer in peers for found in peer.rounds]
    lines += ["", *closing(rounds, f"python -m bench.instruction_sets {sizes}")]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    if options.repeats < FEWEST or options.rounds < 1:
        parser.error(f"at least {FEWEST} repeats and 1 round")
    peers = [Peer(name, command(march, options)) for name, march in SETS.items()]
    for number in range(options.rounds):
        for peer in peers:
            print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr)
            peer.run()
    publish(report(peers, options), options.out)


if __name__ == "__main__":
    main()
