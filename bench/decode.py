"""GPT-2 124M generating on the CPU: gptc, llama.cpp and PyTorch in turns, on one machine, in one run, probes beside.

    python -m bench.decode --peer-python /path/to/python-with-torch-and-llama-cpp --out bench/results/decode_cpu.md

Prints a Markdown table of the ms of a prompt and of each token after it, for weights in 32, 16 and 8 bits, with the
ratios of the medians.  Every round measures each program once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers import closing, publish

ROOT = Path(__file__).parent.parent
BITS = {"f32": ("f32", "float32"), "bf16": ("bf16", "bfloat16"), "int8": ("q8_0", None)}
"""Our name of a format -> llama.cpp's and PyTorch's."""


@dataclass
class Program:
    """One program with one format of weights, and what its rounds gave."""

    name: str
    weights: str
    command: list[str]
    tokens: list[float] = field(default_factory=list)
    """ms of each."""
    prompts: list[float] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        done = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(self.command)}\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        prompts = found["prefill"]
        self.prompts += prompts["repeats"] if isinstance(prompts, dict) else prompts
        self.tokens += found["repeats"]
        self.found.append(found)


def programs(options: argparse.Namespace) -> Iterator[Program]:
    """Ours, llama.cpp and PyTorch for each format."""
    sizes = ["--prompt", str(options.prompt), "--repeats", str(options.repeats)]
    for ours, (llama, torch) in BITS.items():
        gptc = [sys.executable, "-m", "gptc", "bench", "decode", "gpt2-124m", "--precision", ours, "--json"]
        yield Program("gptc", ours, [*gptc, *sizes])
        peer = [options.peer_python, str(ROOT / "bench/llama_cpp_decode.py"), "--weights", llama]
        yield Program("llama.cpp", ours, [*peer, *sizes])
        if torch:
            peer = [options.peer_python, str(ROOT / "bench/torch_decode.py"), "--dtype", torch]
            yield Program("PyTorch", ours, [*peer, *sizes])


def row(program: Program, ours: Program) -> str:
    token, prompt = statistics.median(program.tokens), statistics.median(program.prompts)
    low, _, high = statistics.quantiles(program.tokens, n=4, method="inclusive")
    shares = [found["of_memory"] for found in program.found if "of_memory" in found]
    share = f"{min(shares):.0%} .. {max(shares):.0%}" if shares else ""
    ratios = token / statistics.median(ours.tokens), prompt / statistics.median(ours.prompts)
    times = "" if program is ours else f"{ratios[0]:.2f} / {ratios[1]:.2f}"
    cells = (program.weights, program.name, f"{token:,.2f}", f"{low:,.2f} .. {high:,.2f}", f"{1e3 / token:,.0f}", share,
             f"{prompt:,.1f}", times)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def report(done: list[Program], options: argparse.Namespace) -> str:
    """The Markdown text: table, probes, machine, command."""
    ours = {p.weights: p for p in done if p.name == "gptc"}
    found = [each for p in ours.values() for each in p.found]
    reads = [each["probes"]["read_gbs"] for each in found]
    versions = sorted({f"{p.name} {p.found[-1]['version']}" for p in done if p.name != "gptc"})
    sizes = f"--prompt {options.prompt} --repeats {options.repeats} --rounds {options.rounds}"
    lines = [
        f"GPT-2 124M on the CPU, batch 1: a prompt of {options.prompt} tokens, and tokens after it.  int8 has one "
        "scale a row, llama.cpp's q8_0 one for 32 weights.",
        "",
        "| weights | | ms a token | quartiles | tokens/s | of read bandwidth | ms the prompt | times gptc |",
        "|---|---|---|---|---|---|---|---|",
        *(row(p, ours[p.weights]) for p in done),
        "",
        f"Read probe after each run: {min(reads):,.1f} .. {max(reads):,.1f} GB/s.  {'; '.join(versions)}.",
        *closing(found, f"python -m bench.decode --peer-python PYTHON {sizes}"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="an interpreter that has torch, llama-cpp-python and gguf")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=64, help="tokens of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    done = list(programs(options))
    for number in range(options.rounds):
        for program in done:
            print(f"round {number + 1} of {options.rounds}: {program.name}, {program.weights}", file=sys.stderr)
            program.run()
    publish(report(done, options), options.out)


if __name__ == "__main__":
    main()
