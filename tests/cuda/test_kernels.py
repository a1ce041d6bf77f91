"""Every kernel of the CUDA target on a GPU, against the definition of its op: samples of all ops, regions that stress
each template, the same in bf16, and the kernels of random graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gptc.bounds import bounded
from gptc.ir.body import body
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.interp import interpret
from gptc.ir.ops.cache import AttentionCached, CacheAppend
from gptc.ir.ops.region import Column, Map, Region, Row
from gptc.ir.types import DType, TensorType
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.manager import Context, run_pipeline
from tests.codegen.native import Array, check, empty, nodes_with_kernels, region, wide
from tests.codegen.regions import NORM, REGIONS
from tests.codegen.test_kernels import SAMPLED, operands_for
from tests.cuda.device import DeviceKernels, needs_device
from tests.ir.random_graphs import VOCABULARY, graphs
from tests.passes.gpt2 import Training, feeds

pytestmark = [pytest.mark.gpu, needs_device]

ENTROPY = (
    "m = row_max(where(lt(col(), 50257), x, -inf))\n"
    "s = row_sum(where(lt(col(), 50257), exp(x - m), 0))\nloss = m + log(s)\n"
    "g = where(lt(col(), 50257), (exp(x - loss) - where(eq(col(), t), 1, 0)) * d, 0)"
)
SUMS = "n = x * row_mean(x)\nb = copy(dy)\nw2 = dy * n\ny = w * dy - n * row_mean(w * dy)\nb2 = copy(y)"
WIDE = {
    "rows of 768": region(Row, body("x w b", "y mean rstd", NORM), "f32[37,768]", "f32[768]", "f32[768]"),
    "rows of 1600": region(Row, body("x w b", "y mean rstd", NORM), "f32[7,1600]", "f32[1600]", "f32[1600]"),
    "rows of 50304": region(
        Row, body("x t d", "loss g", ENTROPY), "f32[5,50304]", "i32[5,1]", "f32[5,1]", dtypes=("f32", "f32")
    ),
    "rows too long to keep": region(Row, body("x", "y", "y = x - row_max(x) / row_sum(exp(x))"), "f32[2,70001]"),
    "sums beside rows": region(
        Row, body("dy x w", "w2 b y b2", SUMS), "f32[3001,768]", "f32[3001,768]", "f32[768]", sums=(0, 1, 3)
    ),
    "sums beside odd rows": region(
        Row, body("dy x w", "w2 b y b2", SUMS), "f32[77,39]", "f32[77,39]", "f32[39]", sums=(0, 1, 3)
    ),
    "sums beside long rows": region(Row, body("x", "y t", "y = gelu(x)\nt = copy(y)"), "f32[2,900,3072]", sums=(1,)),
    "columns of 2304": region(Column, body("x", "y", "y = copy(x)"), "f32[5000,2304]"),
    "exponentials": region(Map, body("x", "y z", "y = exp(x)\nz = sigmoid(x)"), "f32[1048576]", dtypes=("f32", "f32")),
    "many elements": region(Map, body("a b", "y", "y = gelu(a) * b"), "f32[600,3072]", "f32[3072]"),
}


def in_bf16(node: Node) -> Node:
    """The same region on bf16 operands; what may be narrow is stored so."""
    assert isinstance(node.op, Region)

    def narrow(kind: TensorType) -> TensorType:
        return replace(kind, dtype=DType.bf16) if kind.dtype is DType.f32 else kind

    operands = tuple(Value(v.name, narrow(v.type)) for v in node.operands)
    sums = range(len(node.results)) if isinstance(node.op, Column) else node.op.sums if isinstance(node.op, Row) else ()
    dtypes = tuple(d if i in sums else d.replace("f32", "bf16") for i, d in enumerate(node.op.dtypes))
    op = replace(node.op, dtypes=dtypes)
    results = tuple(Value(v.name, t) for v, t in zip(node.results, op.infer(*(v.type for v in operands)), strict=True))
    return Node(op, operands, results)


TYPED = (Map, Row, Column, AttentionCached, CacheAppend)
"""Ops that have one kernel for all types."""


def unknown(node: Node) -> bool:
    """Whether it multiplies matrices of other types than f32, which have kernels, and checks, of their own."""
    narrow = any(v.type.dtype not in (DType.f32, DType.i32) for v in node.operands)
    return narrow and not isinstance(node.op, TYPED)


ELEMENTWISE = {name: node for name, node in (REGIONS | WIDE).items() if isinstance(node.op, (Map, Row, Column))}
CASES = {name: [node] for name, node in (REGIONS | WIDE).items() if not unknown(node)}
CASES |= {f"bf16 {name}": [in_bf16(node)] for name, node in ELEMENTWISE.items() if "bf16" not in name}
CASES |= {name: nodes for name, nodes in SAMPLED.items() if not any(unknown(n) for n in nodes)}
"""By name, the kernels of one check."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    return DeviceKernels(tmp_path_factory.mktemp("kernels"), [n for nodes in CASES.values() for n in nodes])


@pytest.mark.parametrize("name", CASES)
def test_kernels(kernels: DeviceKernels, name: str) -> None:
    rng = np.random.default_rng(len(name))
    for node in CASES[name]:
        check(kernels, node, rng, operands_for(node, rng))  # type: ignore[arg-type]


def test_exponentials(kernels: DeviceKernels) -> None:
    """Over all arguments whose exponentials are floats, some of every magnitude."""
    (node,) = CASES["exponentials"]
    x = np.concatenate([np.linspace(-104, 88.72, 1 << 19), np.copysign(2.0 ** np.linspace(-140, 6.4, 1 << 19), 1)])
    x[1 << 19 :: 2] *= -1
    given = {"x0": x.astype(np.float32)}
    results = {v.name: empty(v.type) for v in node.results}
    kernels.call(node, given | results)
    for got, want in zip(results.values(), bounded(node, list(given.values())), strict=True):
        share = np.abs(got - want.value) / want.error
        assert share.max() <= 1, f"{share.max():.2f} of the bound at {given['x0'][share.argmax()]}"


GRAPHS = 300


def random_programs() -> list[Graph]:
    """Training programs of random graphs, planned down to regions, always the same ones."""
    found: list[Graph] = []

    @settings(
        max_examples=GRAPHS, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(graphs())
    def collect(graph: Graph) -> None:
        context = Context(Options())
        name, passes = next(iter(pipelines(context.options, Training()).items()))
        found.append(run_pipeline(replace(graph, name=name), passes, context))

    collect()
    return found


def test_random_graphs(tmp_path: Path) -> None:
    """Each kernel call on the operands that the interpreter has, within the bounds that `gptc diff` allows."""
    programs = random_programs()
    assert len(programs) >= GRAPHS
    kernels = DeviceKernels(tmp_path, [n for graph in programs for n in nodes_with_kernels(graph)])
    compared = 0
    for seed, graph in enumerate(programs):
        values: dict[str, Array] = {}
        for node in interpreted(graph, feeds(graph, seed, VOCABULARY), values):
            results = [empty(v.type) for v in node.results]
            memory = dict(zip([v.name for v in node.results], results, strict=True))
            kernels.call(node, {v.name: values[v.name] for v in node.operands} | memory)
            for value, got, want in zip(node.results, results, bounded(node, operands(node, values)), strict=True):
                wrong = ~(np.abs(wide(got) - want.value) <= want.error) & ~same(got, want.value)
                assert not wrong.any(), f"graph {seed}, %{value.name} of {node.op}: {wrong.sum()} of {got.size}"
                compared += 1
    assert compared > 10 * GRAPHS


def interpreted(graph: Graph, arrays: dict[str, Array], values: dict[str, Array]) -> Iterator[Node]:
    """The nodes that have kernels, when `values` has their operands in memory of their own."""
    nodes: list[Node] = []

    def observe(node: Node, results: tuple[Array, ...]) -> None:
        for value, array in zip(node.results, results, strict=True):
            values[value.name] = empty(value.type)
            values[value.name][...] = array
        nodes.append(node)

    interpret(graph, arrays, observe=observe)
    return (node for node in nodes if node.op.kernel is not None)


def operands(node: Node, values: dict[str, Array]) -> list[Array]:
    return [values[v.name] for v in node.operands]


def same(got: Array, want: Array) -> Array:
    """Where both are the same infinity, or NaN."""
    return (wide(got) == want) | (np.isnan(wide(got)) & np.isnan(want))
