"""Kernels of the step that gptc emits for a GPU, called one by one on random data beside those of libraries."""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.peers import publish
from gptc.compiler import Compiled, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir

SWEEP = 1 << 30
"""Bytes that are written before each call: many times the L2 cache, and time for the host to queue the call."""
SCRATCH = 1 << 28
WARM_UP = 5
BOUND = 1e-2
"""Of a result's relative error in the Frobenius norm."""

Work = Callable[[], Any]


def run(report: Callable[[argparse.Namespace, Path], list[str]], repeats: int) -> None:
    """A benchmark of a step: reads the command line, and publishes the lines that `report` gives, for which it has an
    empty folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="gpt2-124m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(report(options, Path(folder))) + "\n"
    publish(text, options.out)


def compiled_step(options: argparse.Namespace, folder: Path) -> Compiled:
    """The model of the command line for training in bf16."""
    chosen = Options(target="cuda", precision="bf16")
    request = Request(models_dir() / f"{options.model}.yaml", chosen, batch=options.batch, seq=options.seq)
    return compile_model(request, folder)


@dataclass(frozen=True)
class Emitted:
    """A kernel call as the emitted program makes it: its pointers' types by name, what they point to, its sizes."""

    kernel: str
    pointers: dict[str, str]
    operands: tuple[str, ...]
    sizes: dict[str, int]


def emitted_calls(folder: Path) -> list[Emitted]:
    """The products and attentions of the emitted step, in order."""
    header, program = (folder / name for name in ("include/kernels.h", "programs/step.c"))
    parameters = dict(re.findall(r"void (\w+)\(([^()]*)\);", header.read_text()))
    found = []
    for kernel, text in re.findall(r"\b((?:gemm|attention)_\w+)\(([^()]*)\);", program.read_text()):
        given = [argument.strip() for argument in text.split(",")]
        pointers, operands, sizes = {}, [], {}
        for parameter, argument in zip(parameters[kernel].split(","), given, strict=True):
            kind, name = parameter.strip().rsplit(" ", 1)
            if name.startswith("*"):
                pointers[name[1:]] = kind
                operands.append(argument)
            else:
                sizes[name] = int(argument)
        found.append(Emitted(kernel, pointers, tuple(operands), sizes))
    return found


class Kernels:
    """The emitted library on torch's stream."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        ctypes.c_void_p.in_dll(self.library, "gptc_stream").value = torch.cuda.current_stream().cuda_stream
        self.scratch = torch.empty(SCRATCH, dtype=torch.uint8, device="cuda")

    def work(self, call: Emitted, tensors: dict[str, torch.Tensor]) -> Work:
        """The call on these tensors, which must outlive it."""
        memory = {"scratch": self.scratch} | tensors
        pointers = [ctypes.c_void_p(memory[name].data_ptr()) for name in call.pointers]
        return partial(getattr(self.library, call.kernel), *pointers, *map(ctypes.c_int64, call.sizes.values()))


def in_turns(works: list[Work], repeats: int) -> list[float]:
    """The median ms of each, from events."""
    swept = torch.empty(SWEEP, dtype=torch.uint8, device="cuda")
    spans: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in works]
    for _ in range(WARM_UP + repeats):
        for work, span in zip(works, spans, strict=True):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            swept.zero_()
            first.record()
            work()
            last.record()
            span.append((first, last))
    torch.cuda.synchronize()
    return [statistics.median(first.elapsed_time(last) for first, last in span[WARM_UP:]) for span in spans]


def check(what: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error in the Frobenius norm; the speed of a wrong result is worth nothing."""
    error = float((found.float() - expected).norm() / expected.norm())
    if not error < BOUND:
        sys.exit(f"{what}: the relative error is {error:.1e}")
    return error


@dataclass(frozen=True)
class Row:
    """A kernel that was measured: ms of gptc, then of each library."""

    what: str
    calls: int
    flops: int
    ms: list[float]
    error: float
    sizes: str = ""
    epilogue: str = ""

    @property
    def tflops(self) -> str:
        """The speed of gptc's."""
        return f"{self.flops / self.ms[0] / 1e9:,.0f}"

    def cells(self) -> str:
        """Ms, and each library's as a multiple of gptc's."""
        ours, *theirs = self.ms
        return " | ".join([f"{ours:.3f}", *(f"{ms:.3f} | {ms / ours:.2f}" for ms in theirs)])


def total(rows: list[Row]) -> Row:
    """All calls of a step."""
    calls, flops = sum(row.calls for row in rows), sum(row.calls * row.flops for row in rows)
    ms = [sum(row.calls * row.ms[i] for row in rows) for i in range(len(rows[0].ms))]
    return Row("a step", calls, flops, ms, max(row.error for row in rows))
