"""GPT-2 124M trained twice, once undisturbed and once killed with SIGKILL at random moments: are the ends equal?

    python -m bench.resume tinyshakespeare.txt --out bench/results/resume.md

Steps accumulate two micro-steps; validation, samples and, where `--hellaswag` names a file, multiple choice go on
beside.  Weights are compared by their SHA-256, events by what they say.  Fails where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import publish
from gptc.cli.output import printable
from gptc.runtime.history import History

LOOKS = {"loss", "norm", "text", "correct"}
"""What an event says that must repeat; times differ."""


@dataclass(frozen=True)
class Run:
    """`gptc train` in a folder of its own."""

    folder: Path
    flags: tuple[str, ...]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "gptc", "train", *self.flags, "--run", str(self.folder), *more])

    def finish(self, *more: str) -> float:
        """Seconds until it has ended, as it should."""
        began = time.perf_counter()
        process = self.start(*more)
        if process.wait():
            sys.exit(f"{self.folder.name}: exit code {process.returncode}")
        return time.perf_counter() - began

    def kill(self, least: int, seconds: float, *more: str) -> int:
        """End it some seconds after the first checkpoint from step `least` on; returns the step that it had made."""
        process = self.start("--resume", "auto", *more)
        history = History(self.folder / "checkpoints")
        while max(history.steps(), default=0) < least:
            if process.poll() is not None:
                sys.exit(f"{self.folder.name}: ended before it could be killed")
            time.sleep(0.05)
        time.sleep(seconds)
        process.kill()
        process.wait()
        return max(event["step"] for event in self.events())

    def events(self) -> list[dict[str, Any]]:
        """What can be read of its events: the last line may be torn."""
        lines = (self.folder / "metrics.jsonl").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def course(self) -> list[tuple[Any, ...]]:
        """Step, and what was told of it, in an order of its own."""
        told = [(e["step"], key, e[key]) for e in self.events() for key in sorted(LOOKS & e.keys())]
        return sorted(set(told), key=repr)

    def digest(self) -> str:
        return hashlib.sha256((self.folder / "weights.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="gpt2-124m")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=32)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--hellaswag", type=Path)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = report(options, Path(name))
    publish("\n".join(lines) + "\n", options.out)


def report(options: argparse.Namespace, root: Path) -> list[str]:
    data = root / "data"
    prepare = ("data", "prepare", "--recipe", "tinyshakespeare", "--from", str(options.text), "--out", str(data))
    subprocess.run([sys.executable, "-m", "gptc", *prepare], check=True)
    total, every = 2 * options.batch * options.seq, options.steps // 4
    settings = f"{options.model} --precision {options.precision} --batch {options.batch} --seq {options.seq} "
    settings += f"--total-batch {total} --steps {options.steps} --val-every {every} --sample-every {every} "
    settings += "--set train.warmup=20"
    asked = ["--hellaswag", str(options.hellaswag), "--hellaswag-every", str(every)] if options.hellaswag else []
    flags = (*settings.split(), *asked, "--data", str(data), "--out", str(root / "build"))
    whole, killed = Run(root / "whole", flags), Run(root / "killed", flags)
    seconds = whole.finish()
    save = ("--save-every", str(options.steps // 8), "--keep-last", "1")
    chance, moments = random.SystemRandom(), []
    for number in range(options.kills):
        least = options.steps * number // (2 * options.kills)
        moments.append(killed.kill(max(1, least), chance.uniform(0, seconds / 8), *save))
    killed.finish("--resume", "auto", *save)
    ends, courses = [run.digest() for run in (whole, killed)], [run.course() for run in (whole, killed)]
    if ends[0] != ends[1] or courses[0] != courses[1]:
        sys.exit(f"they differ: weights {ends}, events {sorted(set(courses[0]) ^ set(courses[1]), key=repr)[:4]}")
    samples = [text for _, key, text in courses[0] if key == "text"]
    return [
        f"# {options.model}, killed and resumed",
        "",
        f"`gptc train {settings}` on tinyshakespeare shards, {os.cpu_count()} cores.",
        f"A second run, which saved every {options.steps // 8} steps, was ended by SIGKILL after step "
        f"{' and again after step '.join(map(str, moments))}, and went on with `--resume auto`.",
        "",
        "| | SHA-256 of the weights |",
        "|---|---|",
        *(f"| {run.folder.name} | `{end}` |" for run, end in zip((whole, killed), ends, strict=True)),
        "",
        f"All {len(courses[0])} losses, norms{', scores' if asked else ''} and samples are equal too. The last sample:",
        "",
        "```",
        printable(samples[-1]),
        "```",
    ]


if __name__ == "__main__":
    main()
