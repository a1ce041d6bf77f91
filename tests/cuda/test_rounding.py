"""What a GPU rounds to 16 bits has the bits of the interpreter: at random, to nearest, and in every update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gptc.ir.graph import Node
from gptc.ir.ops.optimizer import AdamW
from gptc.ir.ops.random import Seeds, StochasticRound
from gptc.ir.types import DType
from tests.codegen.native import Array, apply, empty, nodes_with_kernels, sample_graph
from tests.cuda.device import DeviceKernels, needs_device

pytestmark = [pytest.mark.gpu, needs_device]

N = 1_000_003
SCALARS = ("f32[]", "f32[]", "f32[]")
BF16 = DType.bf16.numpy


def rounding() -> Node:
    return next(nodes_with_kernels(sample_graph("stochastic_round", {}, (f"f32[{N}]", "i32[]"))))


def drawing() -> Node:
    return next(nodes_with_kernels(sample_graph("seeds", {"count": 148}, ("f32[]",))))


def updating(dtype: str, copy: str, stochastic: bool) -> Node:
    seed = ("i32[]",) if stochastic else ()
    tensors = (f"{dtype}[{N}]", *(f"f32[{N}]",) * 3)
    return apply(AdamW(copy=copy, stochastic=stochastic), *tensors, *seed, *SCALARS)


NODES = {
    "round": rounding(), "seeds": drawing(), "copy": updating("f32", "bf16", True),
    "random": updating("bf16", "", True), "nearest": updating("bf16", "", False), "f16": updating("f32", "f16", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    return DeviceKernels(tmp_path_factory.mktemp("rounding"), list(NODES.values()))


def run(kernels: DeviceKernels, name: str, given: Sequence[Array]) -> list[Array]:
    node = NODES[name]
    results = [empty(v.type) for v in node.results]
    arrays = zip((*node.operands, *node.results), (*given, *results), strict=True)
    kernels.call(node, {value.name: array for value, array in arrays})
    return results


@pytest.mark.parametrize("seed", [0, -7, 12345])
def test_stochastic_rounding(kernels: DeviceKernels, seed: int) -> None:
    """Any float: subnormal, infinite, none."""
    x = np.random.default_rng(0).integers(0, 1 << 32, N, np.uint32).view(np.float32)
    (found,) = run(kernels, "round", [x, np.array(seed, np.int32)])
    (expected,) = StochasticRound().eval(x, np.int32(seed))
    number = ~np.isnan(x)
    assert found[number].tobytes() == expected[number].tobytes()
    assert np.isnan(found[~number].astype(np.float32)).all()


def test_seeds(kernels: DeviceKernels) -> None:
    step = np.array(70000, np.float32)
    assert run(kernels, "seeds", [step])[0].tobytes() == Seeds(148).eval(step)[0].tobytes()


def test_updates(kernels: DeviceKernels) -> None:
    """Copies and parameters of 16 bits are the new parameter in f32, rounded."""
    rng = np.random.default_rng(1)
    p, g, m = (rng.standard_normal(N).astype(np.float32) for _ in range(3))
    p, v = p.astype(BF16), m * m
    rates, seed = [np.array(x, np.float32) for x in (0.01, 7, 0.5)], np.array(99, np.int32)
    new, *moments, copy = run(kernels, "copy", [p.astype(np.float32), g, m, v, seed, *rates])
    (drawn,) = StochasticRound().eval(new, seed)
    assert copy.tobytes() == drawn.tobytes()
    for name, seeds, expected in (("random", [seed], drawn), ("nearest", [], new.astype(BF16))):
        found = run(kernels, name, [p, g, m, v, *seeds, *rates])
        assert [x.tobytes() for x in found] == [x.tobytes() for x in (expected, *moments)], name
    found = run(kernels, "f16", [p.astype(np.float32), g, m, v, *rates])
    assert found[3].tobytes() == new.astype(np.float16).tobytes()
