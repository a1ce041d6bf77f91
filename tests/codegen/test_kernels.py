"""Every kernel against the definition of its op: samples of all ops, and regions that stress each template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gptc.ir.ops  # noqa: F401  (fills the registry)
from gptc.ir.body import Body
from gptc.ir.graph import Node
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.attention import Attention
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.region import Region
from tests.codegen.native import (
    Kernels,
    bounds,
    check,
    close,
    empty,
    fill,
    nodes_with_kernels,
    sample_graph,
    wide,
)
from tests.codegen.regions import REGIONS

SAMPLED = {
    f"{name} {index}": nodes
    for name, cls in sorted(REGISTRY.items())
    for index, (attributes, types) in enumerate(cls.samples)
    if (nodes := list(nodes_with_kernels(sample_graph(name, attributes, types))))
}
"""The kernels that each sample of each op needs; ops that only rename elements need none."""
HERE = {name: nodes for name, nodes in SAMPLED.items() if not any(isinstance(n.op, Foreach) for n in nodes)}
"""Those for a CPU, to which a call costs nothing."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    nodes = [n for group in HERE.values() for n in group] + list(REGIONS.values())
    return Kernels(tmp_path_factory.mktemp("kernels"), nodes)


def operands_for(node: Node, rng: np.random.Generator) -> list[Any] | None:
    """Operands where random ones mean nothing: second moments and sums of squares are not negative."""
    given = [fill(v.type, rng) for v in node.operands]
    if node.op.name in ("adamw", "global_norm", "norm_over_ranks", "foreach"):
        return [x if x.dtype == np.int32 else np.asarray(np.abs(x) + x.dtype.type(0.1)) for x in given]
    if node.op.name == "attention_grad":
        q, k, v = given[1:4]
        out, lse = Attention(scale=node.op.scale, causal=node.op.causal).eval(q, k, v)  # type: ignore[attr-defined]
        given[4][...], given[5][...] = out, lse
    return given


@pytest.mark.parametrize("name", HERE)
def test_samples(kernels: Kernels, name: str) -> None:
    rng = np.random.default_rng(len(name))
    for node in HERE[name]:
        check(kernels, node, rng, operands_for(node, rng))


def test_every_op_with_a_kernel_is_sampled() -> None:
    sampled = {node.op.name for nodes in SAMPLED.values() for node in nodes}
    assert sampled >= {name for name, cls in REGISTRY.items() if cls.kernel} - {"view"}


@pytest.mark.parametrize("name", REGIONS)
def test_regions(kernels: Kernels, name: str) -> None:
    rng = np.random.default_rng(len(name))
    check(kernels, REGIONS[name], rng, operands_for(REGIONS[name], rng))


@pytest.mark.parametrize(
    "name", [name for name, node in REGIONS.items() if isinstance(node.op, Region) and node.op.in_place]
)
def test_results_over_operands(kernels: Kernels, name: str) -> None:
    """Any result may take the place of any operand of its own type, and several results of several operands."""
    node = REGIONS[name]
    rng = np.random.default_rng(7)
    given = [fill(v.type, rng) for v in node.operands]
    apart = check(kernels, node, rng, given)
    pairs = [(i, j) for i, j in node.op.in_place if node.results[i].type == node.operands[j].type]
    choices = [[pair] for pair in pairs]
    choices += [[a, b] for a in pairs for b in pairs if a[0] < b[0] and a[1] != b[1]]
    for choice in choices:
        memory = {
            v.name: x.copy(order="K") if v.type.strides is None else x
            for v, x in zip(node.operands, given, strict=True)
        }
        memory |= {v.name: empty(v.type) for v in node.results}
        memory |= {node.results[i].name: memory[node.operands[j].name] for i, j in choice}
        kernels.call(node, memory)
        for value, want in zip(node.results, apart, strict=True):
            assert memory[value.name].tobytes() == want.tobytes(), f"{value} is wrong when results lie over {choice}"


def test_wrong_kernels_are_found(kernels: Kernels) -> None:
    """The tolerance tells a result from that of a body with one fault."""
    faults = {
        "row: residual and norm": [
            ("add(t1, 1e-05)", "add(t1, 0.1)"),
            ("mul(t4, w)", "mul(t4, b)"),
            ("sub(x, mean)", "add(x, mean)"),
        ],
        "row: hidden entries": [("le(t1, t2)", "lt(t1, t2)"), ("div(e, t5)", "div(e, t4)")],
        "map: nested": [
            ("sub(b, c)", "sub(c, b)"),
            ("add(t10, 1.0)", "add(t10, 1.01)"),
            ("sub(t0, t11)", "add(t0, t11)"),
        ],
    }
    for name, edits in faults.items():
        node, rng = REGIONS[name], np.random.default_rng(3)
        given = [fill(v.type, rng) for v in node.operands]
        got = check(kernels, node, rng, given)
        op = node.op
        assert isinstance(op, Region)
        for right, wrong in edits:
            assert right in str(op.body), (right, str(op.body))
            broken = type(op)(body=Body.parse(str(op.body).replace(right, wrong)), dtypes=op.dtypes)
            with np.errstate(invalid="ignore"):
                other = broken.eval(*map(wide, given))
            pairs = zip(got, other, bounds(node, given, other), strict=True)
            assert not all(close(g, o, bound) for g, o, bound in pairs), f"{wrong} for {right} in {name} goes unnoticed"
