"""Rotary positions: what they compute, their gradient, and the kernels that they become."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.ops.region import Map
from gptc.ir.types import Array, DType
from gptc.model import build_graph, load_description
from gptc.model.functions import ModelBuilder, rope
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.differentiate import Differentiate
from gptc.passes.manager import Context, run_pass, run_pipeline
from gptc.resources import models_dir

SHAPE = (2, 3, 40, 16)
THETA = 1e5


def turned(x: Array, angle_sign: int = 1) -> Array:
    """Pairs (i, i + D/2) as complex numbers times e^(i t theta^(-2 i / D)): Su et al. 2021, equation 15."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    frequency = THETA ** (-np.arange(half) / half)
    pairs = pairs * np.exp(1j * angle_sign * np.arange(x.shape[2])[:, None] * frequency)
    return np.concatenate([pairs.real, pairs.imag], -1)


def test_heads_are_turned_by_their_positions() -> None:
    """By the definition over complex numbers, and back in the gradient; f32 angles are off by roundings of t."""
    b = ModelBuilder("rope", {})
    x, dy = b.buffer(key="x", shape=SHAPE), b.input(key="dy", shape=SHAPE)
    made = rope(b, x, b.iota(count=SHAPE[2]), theta=THETA)
    b.output("y", made)
    b.output("loss", b.reduce_mean(b.mul(made, dy)))
    graph = run_pass(b.build(), Differentiate(), Context())
    arrays = {key: np.random.default_rng(seed).standard_normal(SHAPE) for seed, key in enumerate(("x", "dy"))}
    wanted = {"y": turned(arrays["x"]), "grad:x": turned(arrays["dy"], -1) / math.prod(SHAPE)}
    wide = interpret(graph, arrays, wide=True)
    narrow = interpret(graph, {key: array.astype(np.float32) for key, array in arrays.items()})
    for name, exact in wanted.items():
        scale = np.abs(exact).max()
        assert np.abs(wide[name] - exact).max() < 1e-13 * scale
        assert np.abs(narrow[name] - exact).max() < 3 * SHAPE[2] * DType.f32.eps * scale


def compiled(**options: Any) -> tuple[Graph, Context]:
    """A training step of two blocks."""
    model = load_description(models_dir() / "llama-nano.yaml", ("dims.L=2",))
    chosen = Options(batch=2, seq=16, **options)
    context = Context(chosen)
    graph = replace(build_graph(model, 2, 16), name="step")
    return run_pipeline(graph, pipelines(chosen, model.train)["step"], context), context


def test_a_rotation_is_one_kernel_and_so_is_its_gradient() -> None:
    """Each reads and writes the heads once: nothing is flipped, transposed or joined by a copy."""
    step, context = compiled()
    parts = Counter(tuple(p.split()[0] for p in n.op.parts) for n in step.nodes if isinstance(n.op, Map))
    assert parts["mul", "add"] == 2 * 2 * 2  # queries and keys, two blocks, there and back
    assert sum(count for ops, count in parts.items() if "sin" in ops) == 1  # one table for all blocks
    assert not [r for r in context.remarks if "copied" in r.message]


def test_tables_stay_f32() -> None:
    """On a GPU, where what else kernels hand to each other is narrow."""
    step, _ = compiled(precision="bf16", target="cuda")
    (table,) = (n for n in step.nodes if n.op.name == "map" and "sin" in str(n.op))
    assert [v.type.dtype for v in table.results] == [DType.f32, DType.f32]
    readers = [n for n in step.nodes if n.op.name == "map" and "mul" in str(n.op) and len(n.operands) == 4]
    assert {v.type.dtype for n in readers for v in n.results} == {DType.bf16}
