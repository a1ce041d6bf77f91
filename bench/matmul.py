"""Every matrix product of GPT-2 124M on the CPU: gptc and PyTorch in turns, probes of the peak between them.

    python -m bench.matmul --torch-python PATH/TO/python --out bench/results/matmul_cpu.md

A round makes all products in the order of a training step, first gptc's, then PyTorch's in a process of its own, so
that a slow minute of the machine hits both.  When a product's turn comes, its weights have long left the caches, while
its first operand has just been read, as if the kernel before had written it.  A figure is the median of the rounds, and
a share is of the median of the probes, which run all through the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bench.peers import closing, publish

os.environ.setdefault("GOMP_SPINCOUNT", "1000000")  # as within a step, threads are awake when a product begins

from gptc.codegen.kernel import Call
from gptc.codegen.probes import cpu_probe
from gptc.codegen.render import cpu_headers, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import Target, describe
from gptc.ir.build import Builder
from gptc.ir.types import DType
from gptc.options import Options
from gptc.passes.lower import Lower
from gptc.passes.manager import Context
from gptc.runtime.cache import Cache
from gptc.runtime.hashing import content_hash
from gptc.runtime.machine import this_machine
from gptc.runtime.manifest import Build
from gptc.runtime.probe import Probe
from gptc.runtime.toolchain import find_compiler, host_cpu

LAYERS = {"qkv": (2304, 768), "proj": (768, 768), "fc": (3072, 768), "fc_proj": (768, 3072), "head": (50304, 768)}
"""Rows and columns of the weights; the vocabulary is padded."""
DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
FORMS = ("forward", "dX", "dW")
FEWEST, PAUSE, LINE = 7, 0.05, 64
"""Rounds; seconds until the other side's threads sleep; bytes of a cache line."""


@dataclass(frozen=True)
class Product:
    """C[m, n] = the sum over k of A[m, k] B[k, n], for one layer and so many rows of activations."""

    layer: str
    form: str
    rows: int

    @property
    def names(self) -> tuple[str, str, str]:
        """Of A, B and C."""
        of = {"forward": ("x", "w", "y"), "dX": ("dy", "w", "dx"), "dW": ("dy", "x", "dw")}[self.form]
        return of[0] + self.suffix(of[0]), of[1] + self.suffix(of[1]), of[2] + self.suffix(of[2])

    def suffix(self, kind: str) -> str:
        return f".{self.layer}" + ("" if kind in ("w", "dw") else f".{self.rows}")

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """As they lie in memory."""
        outputs, inputs = LAYERS[self.layer]
        x, y, w = (self.rows, inputs), (self.rows, outputs), (outputs, inputs)
        of = {"forward": (x, w, y), "dX": (y, w, x), "dW": (y, x, w)}[self.form]
        return dict(zip(self.names, of, strict=True))

    @property
    def transposed(self) -> tuple[bool, bool]:
        return self.form == "dW", self.form == "forward"

    @property
    def flops(self) -> int:
        outputs, inputs = LAYERS[self.layer]
        return 2 * self.rows * outputs * inputs


def step(rows: int) -> Iterator[Product]:
    """The products of one block and the head in the order of a training step."""
    yield from (Product(layer, "forward", rows) for layer in LAYERS)
    yield from (Product(layer, form, rows) for layer in reversed(LAYERS) for form in ("dX", "dW"))


class Kernels:
    """gptc's kernels for some products, selected, emitted and compiled as a model's are, and their memory."""

    def __init__(self, products: list[Product], dtype: str, target: Target) -> None:
        self.products, self.dtype = products, dtype
        self.calls = [_call(product, dtype, target) for product in products]
        self.library = _build(self.calls, target)
        results = {product.names[2] for product in products}
        shapes = {name: shape for product in products for name, shape in product.shapes.items()}
        self.memory = {
            name: _zeros(shape, np.dtype(np.float32)) if name in results else _random(name, shape, DTYPES[dtype])
            for name, shape in shapes.items()
        }

    def seconds(self, index: int, probe: Probe) -> float:
        """Make a product once."""
        function = getattr(self.library, self.calls[index].kernel.name)
        tensors = [self.memory[name] for name in self.products[index].names]
        sizes = [n for n in self.calls[index].arguments if isinstance(n, int)]
        arguments = [*(ctypes.c_void_p(x.ctypes.data) for x in tensors), *(ctypes.c_int64(n) for n in sizes)]
        probe.read(tensors[0].reshape(-1).view(np.float32))
        began = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - began

    def check(self, index: int) -> None:
        """The speed of a wrong product is worth nothing: compare some elements with sums in float64."""
        a, b, c = (self.memory[name] for name in self.products[index].names)
        trans_a, trans_b = self.products[index].transposed
        rng = np.random.default_rng(index)
        i, j = rng.integers(0, c.shape[0], 64), rng.integers(0, c.shape[1], 64)
        left, right = (a.T if trans_a else a)[i].astype(float), (b if trans_b else b.T)[j].astype(float)
        scale = np.sqrt((left**2 * right**2).sum(1))
        bound = 4 * float(np.finfo(np.float32).eps) * np.sqrt(left.shape[1]) * scale  # errors walk at random
        if not np.all(np.abs(c[i, j] - (left * right).sum(1)) <= bound):
            sys.exit(f"{self.products[index]}: wrong result")


def _call(product: Product, dtype: str, target: Target) -> Call:
    """The kernel call that a compilation would make for the product."""
    a, b, _ = product.names
    trans_a, trans_b = product.transposed
    builder = Builder("matmul")
    operands = [builder.input(key=n, dtype=DType(dtype), shape=product.shapes[n], label=n) for n in (a, b)]
    builder.output("c", builder.matmul(*operands, trans_a=trans_a, trans_b=trans_b))
    graph = Lower().run(builder.build("precise"), Context(Options()))
    (call,) = [call for node in graph.nodes if (call := select(node, target))]
    return call


def _build(calls: list[Call], target: Target) -> ctypes.CDLL:
    """The kernels in one library, from the cache or compiled now."""
    cached = Cache()
    cc = find_compiler(target.compiler, target.compiler, cached)
    files = {f"{c.kernel.name}.c": render_kernel(target, c.kernel, [c.kernel.name]) for c in calls}
    files |= cpu_headers(target)
    key = content_hash("bench/matmul", cc.identity, host_cpu(), target.flags, files)

    def compile_all(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_text(text)
        units = [name for name in files if name.endswith(".c")]
        if complaint := cc.run([*target.flags, "-fPIC", "-shared", *units, "-o", "kernels.so", *target.libs], folder):
            sys.exit(complaint)

    return ctypes.CDLL(str(cached.put(key, compile_all) / "kernels.so"))


def _zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Memory such as a model has: mapped, in large pages where the system gives them."""
    size = shape[0] * shape[1]
    mapping = mmap.mmap(-1, size * dtype.itemsize + LINE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, dtype, size).reshape(shape)


def _random(name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    x = _zeros(shape, dtype)
    x[...] = np.random.default_rng([*name.encode()]).standard_normal(shape, np.float32)
    return x


class Peer:
    """PyTorch in a process of its own."""

    def __init__(self, python: str, kernels: Kernels, threads: int) -> None:
        tensors = {name: x.shape for name, x in kernels.memory.items()}
        products = [[*p.names, *p.transposed] for p in kernels.products]
        script = str(Path(__file__).with_name("torch_matmul.py"))
        self.process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        order = {"dtype": kernels.dtype, "threads": threads, "tensors": tensors, "products": products}
        self.version = self.ask(json.dumps(order))

    def ask(self, line: str) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"PyTorch ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(kernels: Kernels, peer: Peer, probe: Probe, rounds: int) -> str:
    """All rounds for one dtype, as a table."""
    ours: list[list[float]] = [[] for _ in kernels.products]
    theirs: list[list[float]] = [[] for _ in kernels.products]
    peaks = []
    for number in range(rounds + 1):
        for index, product in enumerate(kernels.products):
            if index == 0 or product.layer == "head":
                peaks.append(probe.gflops(kernels.dtype, 1))
            ours[index].append(kernels.seconds(index, probe))
            if number == 0:
                kernels.check(index)
        time.sleep(PAUSE)
        for times, seconds in zip(theirs, peer.ask("round"), strict=True):
            times.append(seconds)
        time.sleep(PAUSE)
        if number == 0:  # this one touched the memory for the first time
            ours, theirs, peaks = [[] for _ in ours], [[] for _ in theirs], []
    return table(kernels, ours, theirs, peaks)


def table(kernels: Kernels, ours: list[list[float]], theirs: list[list[float]], peaks: list[float]) -> str:
    """GFLOP/s of each product, the share of the peak, and the peer's GFLOP/s."""
    peak = statistics.median(peaks)
    low, _, high = statistics.quantiles(peaks, n=4)
    rates: dict[Product, tuple[float, float]] = {
        product: (product.flops / statistics.median(a) / 1e9, product.flops / statistics.median(b) / 1e9)
        for product, a, b in zip(kernels.products, ours, theirs, strict=True)
    }
    spreads = [(q[2] - q[0]) / q[1] for q in (statistics.quantiles(times, n=4) for times in ours)]
    lines = [
        f"{kernels.dtype}: peak by {len(peaks)} probes {peak:,.0f} GFLOP/s (quartiles {low:,.0f} .. {high:,.0f})",
        "",
        "| rows | layer | N x K |" + "".join(f" {form} | of peak | PyTorch |" for form in FORMS),
        "|---|---|---|" + "---|" * 3 * len(FORMS),
    ]
    for rows in dict.fromkeys(product.rows for product in kernels.products):
        for layer, (outputs, inputs) in LAYERS.items():
            cells = [rates[Product(layer, form, rows)] for form in FORMS]
            lines.append(
                f"| {rows} | {layer} | {outputs} x {inputs} |"
                + "".join(f" {a:,.0f} | {a / peak:.0%} | {b:,.0f} |" for a, b in cells)
            )
    least = min(rates.values())[0] / peak
    total, peer = (1e3 * sum(map(statistics.median, times)) for times in (ours, theirs))
    lines += [
        "",
        f"The least share is {least:.0%}. All products together take {total:,.0f} ms, PyTorch's {peer:,.0f} ms: "
        f"{peer / total:.2f} times as long. Quartiles lie {statistics.median(spreads):.1%} apart, "
        f"at most {max(spreads):.0%}, over {len(ours[0])} rounds.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch")
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--rows", nargs="+", type=int, default=[256, 1024], help="rows of activations, B x T")
    parser.add_argument("--march", default="native")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the tables here")
    options = parser.parse_args()
    if options.rounds < FEWEST:
        parser.error(f"at least {FEWEST} rounds")
    target = describe(Options().compiler, options.march)
    build = Build(
        compiler=target.compiler, flags=target.flags, libs=target.libs, library="probe.so", units=("probe.c",)
    )  # fmt: skip
    probe = Probe(cpu_probe(target), build)
    products = [product for rows in options.rows for product in step(rows)]
    parts = [f"Matrix products of GPT-2 124M, GFLOP/s, {target}"]
    for dtype in options.dtype:
        kernels = Kernels(products, dtype, target)
        peer = Peer(options.torch_python, kernels, probe.threads)
        parts.append(measure(kernels, peer, probe, options.rounds))
        version = peer.version
        peer.close()
    sizes = " ".join(map(str, options.rows))
    command = f"--dtype {' '.join(options.dtype)} --rows {sizes} --march {options.march} --rounds {options.rounds}"
    last = closing(
        [{"machine": this_machine(probe.threads).to_json()}],
        f"python -m bench.matmul --torch-python PYTHON {command}",
    )
    parts.append("\n".join((f"PyTorch {version} writes the products of bf16 in bf16, gptc in f32.", *last)))
    publish("\n\n".join(parts) + "\n", options.out)


if __name__ == "__main__":
    main()
