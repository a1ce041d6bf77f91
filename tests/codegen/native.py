"""Kernels selected, rendered, compiled into one library, and called on NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gptc.codegen.kernel import Argument, Call, Element
from gptc.codegen.render import cpu_headers, render, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import Target, describe
from gptc.ir.body import evaluate
from gptc.ir.build import Builder
from gptc.ir.compose import Body
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.op import Op
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.region import Gemm, Region, Row
from gptc.ir.text import parse_type
from gptc.ir.types import TensorType
from gptc.passes.lower import Lower
from tests.conftest import WARNINGS

Array = np.ndarray[Any, Any]
THREADS = (1, 2, 3)
TARGET = describe(os.environ.get("CC", "gcc"), os.environ.get("GPTC_TEST_MARCH", "native"))
CFLAGS = os.environ.get("GPTC_TEST_CFLAGS", "").split()
EPS = float(np.finfo(np.float32).eps)


def apply(op: Op, *types: str | TensorType) -> Node:
    """A node of `op` on fresh operands x0, x1, ..."""
    operands = tuple(Value(f"x{i}", parse_type(t) if isinstance(t, str) else t) for i, t in enumerate(types))
    results = tuple(Value(f"y{i}", t) for i, t in enumerate(op.infer(*(v.type for v in operands))))
    return Node(op, operands, results)


def region(kind: type[Region], code: Body, *types: str, dtypes: Sequence[str] = (), **attributes: Any) -> Node:
    """A hand-made region; its results are f32 unless `dtypes` says otherwise."""
    return apply(kind(body=code, dtypes=tuple(dtypes) or ("f32",) * len(code.outputs), **attributes), *types)


def sample_graph(name: str, attributes: Mapping[str, Any], types: Sequence[str]) -> Graph:
    """One op on inputs, brought into the form that code generation knows."""
    b = Builder("sample")
    inputs = []
    for i, text in enumerate(types):
        kind = parse_type(text)
        inputs.append(b.input(key=f"x{i}", dtype=kind.dtype, shape=tuple(map(int, kind.shape)), label=f"x{i}"))
    results = b.apply(REGISTRY[name](**attributes), inputs)
    for i, value in enumerate(results):
        b.output(f"y{i}", value)
    return Lower().run(b.build("precise"), None)  # type: ignore[arg-type]


def nodes_with_kernels(graph: Graph) -> Iterator[Node]:
    return (n for n in graph.nodes if n.op.kernel is not None)


class Kernels:
    """A library of every kernel that some nodes need."""

    def __init__(self, folder: Path, nodes: Sequence[Node], target: Target = TARGET, flags: Sequence[str] = ()) -> None:
        self.calls: dict[int, Call] = {}
        self.sources: dict[str, str] = {}
        for node in nodes:
            call = select(node, target)
            assert call is not None
            self.calls[id(node)] = call
            self.sources[call.kernel.name] = render_kernel(target, call.kernel, [call.kernel.name])
        self.library = build(folder, self.sources, target, flags)

    def call(self, node: Node, memory: Mapping[str, Array], threads: int = 2) -> None:
        """Compute a node; `memory` has an array for every operand and result, laid out as its type says."""
        call = self.calls[id(node)]
        self.library.set_threads(threads)
        keep: list[Any] = []
        function = getattr(self.library, call.kernel.name)
        function(*(pass_argument(a, memory, keep) for a in call.arguments))


def build(folder: Path, sources: Mapping[str, str], target: Target, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile kernels as an artefact's Makefile would, with every warning an error."""
    texts = {**sources, "threads": "#include <omp.h>\nvoid set_threads(int n) { omp_set_num_threads(n); }\n"}
    texts["ranks"] = render("c/program/ranks.c")
    for name, text in cpu_headers(target).items():
        (folder / name).write_text(text)
    command = [target.compiler, *target.flags, *WARNINGS, "-fPIC", *flags, *CFLAGS]

    def compile_one(name: str) -> str:
        (folder / f"{name}.c").write_text(texts[name])
        done = subprocess.run([*command, "-c", f"{name}.c"], cwd=folder, capture_output=True, text=True, check=False)
        return done.stderr

    with ThreadPoolExecutor(2) as pool:
        errors = "".join(pool.map(compile_one, texts))
    assert not errors, errors
    objects = [f"{name}.o" for name in texts]
    subprocess.run([*command, "-shared", *objects, "-o", "kernels.so", "-lm"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


def pass_argument(argument: Argument, memory: Mapping[str, Array], keep: list[Any]) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, tuple) and isinstance(argument[0], int):
        keep.append((ctypes.c_int64 * len(argument))(*argument))
        return keep[-1]
    if isinstance(argument, tuple):
        keep.append((ctypes.c_void_p * len(argument))(*(memory[v.name].ctypes.data for v in argument)))
        return keep[-1]
    if isinstance(argument, Element):
        array = memory[argument.value.name]
        return ctypes.c_void_p(array.ctypes.data + argument.index * array.itemsize)
    assert isinstance(argument, Value)
    return ctypes.c_void_p(memory[argument.name].ctypes.data)


def empty(kind: TensorType) -> Array:
    """Memory for a type, NaN wherever nothing has been stored."""
    span = np.full(max(kind.span, 1), 99 if not kind.dtype.is_float else np.nan, kind.dtype.numpy)
    return np.lib.stride_tricks.as_strided(span[kind.reach_back :], kind.shape, [s * span.itemsize for s in kind.steps])


def fill(kind: TensorType, rng: np.random.Generator, limit: int = 4) -> Array:
    """Random contents: floats within about 3 of 0, whole numbers below `limit`."""
    array = empty(kind)
    if kind.dtype.is_float:
        array[...] = rng.standard_normal(kind.shape).astype(kind.dtype.numpy)
    else:
        array[...] = rng.integers(0, limit, kind.shape)
    return array


def wide(array: Array) -> Array:
    """For an interpretation in float64; whole numbers stay."""
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def bounds(node: Node, operands: Sequence[Array], expected: Sequence[Array]) -> list[float]:
    """Largest error allowed for each result: 4 eps (1 + sqrt K) times the largest number on the way, K terms a sum.

    The rounding errors of a sum of K terms add up like a random walk; eps is that of f32 or of the result's own type.
    """
    steps = [np.abs(wide(x)) for x in (*operands, *expected)]
    if isinstance(node.op, Region):
        steps += map(np.abs, intermediates(node, operands))
    largest = max((float(np.max(s, where=np.isfinite(s), initial=0)) for s in steps), default=1)
    terms = max((int(np.prod(x.shape)) for x in operands), default=1)
    return [4 * max(EPS, v.type.dtype.eps) * (1 + np.sqrt(reduced(node, terms))) * largest for v in node.results]


def intermediates(node: Node, operands: Sequence[Array]) -> list[Array]:
    """Every value of a region's body in float64."""
    assert isinstance(node.op, Region)
    code, inputs = node.op.body, [wide(x) for x in operands]
    if isinstance(node.op, Gemm):
        product = np.matmul(
            inputs[0].swapaxes(-1, -2) if node.op.trans_a else inputs[0],
            inputs[1].swapaxes(-1, -2) if node.op.trans_b else inputs[1],
        )
        inputs = [product, *inputs[2:]]
    names = tuple(s.result for s in code.stmts)
    space = (
        node.op.product([v.type for v in node.operands]).shape
        if isinstance(node.op, Gemm)
        else (node.op.space([v.type for v in node.operands]))
    )
    return list(evaluate(Body(code.inputs, code.stmts, names), inputs, space))


def reduced(node: Node, elements: int) -> int:
    """Terms of the longest sum that a node may form."""
    if node.op.name == "map":
        return 1
    if isinstance(node.op, Gemm):
        return int(node.operands[0].type.shape[-2 if node.op.trans_a else -1])
    if node.op.name == "row":
        assert isinstance(node.op, Row)
        *rows, cols = map(int, node.op.space([v.type for v in node.operands]))
        return max(cols, int(np.prod(rows)) if node.op.sums else 1)
    return elements


def check(
    kernels: Kernels, node: Node, rng: np.random.Generator, operands: Sequence[Array] | None = None
) -> list[Array]:
    """Run a node's kernel at 1, 2 and 3 threads: bits are equal, and near the float64 interpretation."""
    given = [fill(v.type, rng) for v in node.operands] if operands is None else list(operands)
    expected = node.op.eval(*map(wide, given))
    seen: list[list[Array]] = []
    for threads in THREADS:
        results = [empty(v.type) for v in node.results]
        values = zip((*node.operands, *node.results), (*given, *results), strict=True)
        kernels.call(node, {v.name: array for v, array in values}, threads)
        seen.append(results)
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            assert a.tobytes() == b.tobytes(), f"{kernels.calls[id(node)].kernel.name}: bits depend on the threads"
    for value, got, want, bound in zip(node.results, seen[0], expected, bounds(node, given, expected), strict=True):
        assert close(got, want, bound), f"%{value.name} of {node.op}: {error(got, want):.3g} exceeds {bound:.3g}"
    return seen[0]


def error(got: Array, want: Array) -> float:
    return float(np.max(np.abs(wide(got) - want), initial=0))


def close(got: Array, want: Array, bound: float) -> bool:
    """Within the bound everywhere; infinities and NaN where they belong."""
    a, b = wide(got).astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    return bool(same and np.all(np.abs(a[finite] - b[finite]) <= bound))
