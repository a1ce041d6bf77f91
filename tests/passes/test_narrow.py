"""Storing activations in bf16: what is computed stays the same, and what travels is narrow."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.ir.graph import Graph, Value
from gptc.ir.interp import interpret
from gptc.ir.ops.region import Column, Region
from gptc.ir.types import DType
from gptc.options import Options
from tests.passes.gpt2 import Gpt2, Training, agree, compiled, feeds

SIZES = Gpt2(B=2, T=8, L=2, H=2, C=16)
CUDA = Options(target="cuda", precision="bf16")


def travelling(graph: Graph) -> list[Value]:
    """f32 activations, a number for each token and channel at least, that go from region to region."""
    tokens = SIZES.B * SIZES.T
    found = []
    for node in graph.nodes:
        if not isinstance(node.op, Region) or isinstance(node.op, Column):
            continue
        for value in node.results:
            readers = graph.users[value.name]
            regions = readers and all(isinstance(n.op, Region) for n in readers)
            leaves = value.name in graph.output_names or any(
                v.name in graph.output_names and v.type.count >= value.type.count for n in readers for v in n.results
            )
            if value.type.dtype is DType.f32 and value.type.count >= tokens * SIZES.C and regions and not leaves:
                found.append(value)
    return found


@pytest.mark.parametrize(
    "options",
    [
        CUDA,
        Options(target="cuda", precision="bf16", micro_steps=2),
        Options(target="cuda", precision="bf16", remat="cheap"),
        Options(target="cuda", precision="f16", micro_steps=2),
        Options(target="cuda", precision="bf16", fuse=False, recognise=False),
    ],
    ids=["step", "micro", "remat", "f16", "primitive"],
)
def test_meaning_stays(options: Options) -> None:
    """In float64, where stores do not round, the programs compute what those in f32 do."""
    graph = SIZES.graph()
    narrow = compiled(graph, options, Training())
    wide = compiled(graph, Options(target="c", micro_steps=options.micro_steps), Training())
    for name in ("evaluate", "step" if options.micro_steps == 1 else "micro_step"):
        assert travelling(narrow[name]) == []
        arrays = feeds(narrow[name], 0, SIZES.V)
        found, expected = interpret(narrow[name], arrays, wide=True), interpret(wide[name], arrays, wide=True)
        agree(expected, {key: found[key] for key in expected}, wide[name])


def test_loss_is_close() -> None:
    """In its own precision, the loss is that of f32 but for the rounding of bf16, 2^-8 of numbers near 1."""
    graph = SIZES.graph()
    arrays = feeds(compiled(graph, CUDA, Training())["evaluate"], 1, SIZES.V)
    narrow, wide = (
        float(interpret(compiled(graph, options, Training())["evaluate"], arrays)["loss"])
        for options in (CUDA, Options(target="c"))
    )
    assert narrow != wide
    np.testing.assert_allclose(narrow, wide, rtol=2.0**-8)


def test_f32_is_left_alone() -> None:
    programs = compiled(SIZES.graph(), Options(target="cuda"), Training())
    assert not any(v.type.dtype is DType.bf16 for graph in programs.values() for v in graph.values())
