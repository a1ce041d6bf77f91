"""The kernels of a GPU step that are bound by memory, each alone beside what memory gives.

    python -m bench.cuda_memory --out bench/results/memory_h200.md

Of each kernel the call that moves most is queued again and again, with the arguments that the emitted program gives it,
in the memory that a step has left; only the first and the last of several launches have an event.  Calls that move less
than LEAST bytes are launches rather than traffic, and left out.  Needs what `bench.cuda` needs.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.cuda import probe
from bench.cuda_alone import compiled_step, run
from gptc.compiler import build_model
from gptc.runtime.cuda import CudaModel
from gptc.runtime.device import driver
from gptc.runtime.profile import TrainingStep, calls_of

LAUNCHES = 8
LEAST = 50_000_000
INTENSITY = 100
"""Operations for each byte from which a kernel is bound by arithmetic."""

ARGUMENT = re.compile(r"\s*\((?:const )?\w+ ?(?:\*const)?\[\]\)\{[^}]*\}|[^,{}]+")
"""A call's argument: an array, or an address or a number."""


def emitted_calls(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The kernel and the arguments of each call of the emitted step, in order."""
    program = (folder / "programs" / "step.c").read_text()
    for kernel, text in re.findall(r"^    (\w+)\(((?:[^;])*)\);\n    AFTER", program, re.MULTILINE):
        yield kernel, [argument.strip() for argument in ARGUMENT.findall(text)]


def places(folder: Path) -> dict[str, int]:
    """The offsets that the emitted step has names for."""
    texts = [(folder / name).read_text() for name in ("include/offsets.h", "programs/step.c")]
    return {name: int(number) for text in texts for name, number in re.findall(r"\b(\w+) = (\d+),", text)}


class Arguments:
    """From the text of arguments to what ctypes passes."""

    def __init__(self, model: CudaModel, folder: Path) -> None:
        self.bases = model.addresses
        self.names = places(folder)

    def __call__(self, text: str) -> ctypes.Array[ctypes.c_void_p] | ctypes.Array[ctypes.c_int64] | ctypes.c_int64:
        if text.startswith("("):
            items = [self.number(each) for each in text[text.index("{") + 1 : -1].split(",")]
            return ((ctypes.c_int64 if "int64_t" in text else ctypes.c_void_p) * len(items))(*items)
        return ctypes.c_int64(self.number(text))

    def number(self, text: str) -> int:
        """An address, as `arena + name`, or a size."""
        return sum(self.term(each.strip()) for each in text.split("+"))

    def term(self, word: str) -> int:
        if word.isdecimal():
            return int(word)
        return self.bases[word] if word in self.bases else self.names[word]


def alone(library: ctypes.CDLL, kernel: str, arguments: list[object], repeats: int) -> float:
    """The median ms of one launch, from events around several."""
    stream = torch.cuda.ExternalStream(ctypes.c_void_p.in_dll(library, "gptc_stream").value or 0)
    spans = []
    for _ in range(repeats + 1):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record(stream)
        for _ in range(LAUNCHES):
            getattr(library, kernel)(*arguments)
        last.record(stream)
        last.synchronize()
        spans.append(first.elapsed_time(last) / LAUNCHES)
    return statistics.median(spans[1:])


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """The whole run as lines of Markdown."""
    compiled = compiled_step(options, folder)
    path = build_model(compiled).library
    model = CudaModel(compiled.artefact, path)
    step = TrainingStep(model)
    step()
    library, spell = ctypes.CDLL(str(path)), Arguments(model, compiled.artefact.folder)
    largest: dict[str, tuple[int, list[str]]] = {}
    calls = calls_of(compiled.artefact)["step"]
    for call, (kernel, arguments) in zip(calls, emitted_calls(compiled.artefact.folder), strict=True):
        assert call.kernel == kernel
        streams = call.flops < INTENSITY * call.bytes and not kernel.startswith("attention")
        if streams and call.bytes > largest.get(kernel, (LEAST, []))[0]:
            largest[kernel] = call.bytes, arguments
    rows = []
    for kernel, (size, texts) in largest.items():
        ms = alone(library, kernel, list(map(spell, texts)), options.repeats)
        rows.append((kernel, size, ms))
    del model, step
    roof = probe()
    return [
        f"# {options.model}, bf16, B {options.batch}, T {options.seq}: kernels bound by memory, alone, "
        f"{torch.cuda.get_device_name()}", "",
        f"`python -m bench.cuda_memory{f' --out {options.out}' if options.out else ''}`", "",
        f"A copy gives {roof.gbs:,.0f} GB/s in the same run. Of each kernel the call that moves most, {LAUNCHES} "
        f"launches between two events, the median of {options.repeats}; bytes are those that must move. Calls of less "
        f"than {LEAST // 10**6} MB are left out.", "",
        "| kernel | MB | us | GB/s | of the copy |", "|---|---:|---:|---:|---:|",
        *(f"| `{kernel}` | {size / 1e6:,.0f} | {ms * 1e3:,.1f} | {size / ms / 1e6:,.0f} "
          f"| {size / ms / 1e6 / roof.gbs:.0%} |" for kernel, size, ms in sorted(rows, key=lambda row: -row[1])),
    ]  # fmt: skip


if __name__ == "__main__":
    driver()
    run(report, 9)
