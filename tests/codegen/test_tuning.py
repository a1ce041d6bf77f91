"""What a template's header lets a kernel be tuned to, and that none of it changes a bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gptc.codegen import tuning
from gptc.codegen.instructions import INSTRUCTION_SETS
from gptc.codegen.kernel import Call
from gptc.codegen.program import Program
from gptc.codegen.render import Contract, contract, render_kernel
from gptc.codegen.select import select
from gptc.codegen.tuning import apply, default_point, points, signatures
from gptc.errors import InternalError
from gptc.ir.graph import Graph
from gptc.resources import template_dir
from tests.codegen.native import TARGET, build, empty, fill, nodes_with_kernels, pass_argument, sample_graph

AVX512, AVX2 = INSTRUCTION_SETS[:2]


def header(monkeypatch: pytest.MonkeyPatch, tune: str, needs: str) -> None:
    monkeypatch.setattr(tuning, "contract", lambda name: Contract("k", (), (), tune, needs, 1))


def test_points(monkeypatch: pytest.MonkeyPatch) -> None:
    header(monkeypatch, "A in (1, 2 * VEC); B in (8, 4)", "a word; A, B >= 1; A * B < 4 * vector registers; x in words")
    assert points("c/k.c", AVX512) == [{"A": 1, "B": 8}, {"A": 1, "B": 4}]
    assert points("c/k.c", AVX2) == [{"A": 1, "B": 8}, {"A": 1, "B": 4}]
    header(monkeypatch, "A in (1, 2 * VEC); B in (8, 4)", "A + B <= 20")
    assert points("c/k.c", AVX2) == [{"A": 1, "B": 8}, {"A": 1, "B": 4}, {"A": 16, "B": 4}]
    header(monkeypatch, "", "A > 1")
    assert points("c/k.c", AVX2) == []


@pytest.mark.parametrize("tune", ["A", "A in 3", "A in (B, 2)", "A in ([1], 2)", "A in (open('/etc/passwd'), 1)"])
def test_headers_that_declare_nonsense(monkeypatch: pytest.MonkeyPatch, tune: str) -> None:
    header(monkeypatch, tune, "")
    with pytest.raises(InternalError, match=r"c/k\.c\.j2: `tune` has"):
        points("c/k.c", AVX2)


@pytest.mark.parametrize("cpu", INSTRUCTION_SETS, ids=lambda cpu: cpu.name)
def test_shipped_templates(cpu: tuning.InstructionSet) -> None:
    """The defaults are among what is declared, and nothing is that would not fit the registers."""
    found = points("c/matmul.c", cpu)
    for tile in (cpu.tile, cpu.narrow):
        assert dict(zip(("MR", "NR"), tile, strict=True)) in found
    assert all(p["NR"] % cpu.vector == 0 for p in found)
    assert all((p["MR"] + 1) * p["NR"] // cpu.vector < cpu.registers for p in found)
    for name in ("attention", "attention_grad"):
        assert {"MR": cpu.attention_rows} in points(f"c/{name}.c", cpu)


def test_every_template_that_is_tuned_is_tested_for_bits() -> None:
    paths = sorted((template_dir() / "c").glob("*.c.j2"))
    tuned = {path.name.removesuffix(".c.j2") for path in paths if contract(f"c/{path.name.removesuffix('.j2')}").tune}
    assert tuned - {"probe"} == {call.kernel.template for call in products()}


def products() -> list[Call]:
    """One kernel of each form and template that may be tuned, at sizes that no tile divides."""
    graphs = [
        sample_graph("matmul", {"trans_a": a, "trans_b": b}, (left, right))
        for a, b, left, right in (
            (False, True, "f32[37,131]", "f32[101,131]"),
            (False, False, "f32[37,131]", "f32[131,101]"),
            (True, False, "f32[131,37]", "f32[131,101]"),
        )
    ]
    heads = ("f32[2,3,70,20]",)
    lse = ("f32[2,3,70]",)
    graphs.append(sample_graph("attention", {"scale": 0.2, "causal": True}, heads * 3))
    graphs.append(sample_graph("attention_grad", {"scale": 0.2, "causal": True}, heads * 5 + lse))
    calls = [select(node, TARGET) for graph in graphs for node in nodes_with_kernels(graph)]
    return [call for call in calls if call is not None]


def test_no_point_changes_a_bit(tmp_path: Path) -> None:
    calls = products()
    variants = {
        (index, tuple(point.items())): replace(call.kernel, params={**call.kernel.params, **point})
        for index, call in enumerate(calls)
        for point in points(TARGET.template(call.kernel.template), TARGET.instructions)
    }
    sources = {spec.name: render_kernel(TARGET, spec, ()) for spec in variants.values()}
    assert len(sources) == len(variants) > len(calls)
    library = build(tmp_path, sources, TARGET)
    rng = np.random.default_rng(3)
    for index, call in enumerate(calls):
        memory = {v.name: fill(v.type, rng) for v in call.node.operands}
        seen = set()
        for spec in (spec for (which, _), spec in variants.items() if which == index):
            memory |= {v.name: empty(v.type) for v in call.node.results}
            keep: list[object] = []
            getattr(library, spec.name)(*(pass_argument(a, memory, keep) for a in call.arguments))
            assert np.isfinite(memory[call.node.results[0].name]).all()
            seen.add(tuple(memory[v.name].tobytes() for v in call.node.results))
        assert len(seen) == 1, call.kernel.stem


def test_choices_are_for_a_kernel_at_its_sizes() -> None:
    call, *_ = products()
    graph = Graph("g", "planned", (call.node,), ())
    small = replace(call, arguments=tuple(5 if a == 37 else a for a in call.arguments))
    one, both = [Program(graph, (call,))], [Program(graph, (call, small))]
    (known,), (others,) = signatures(one, TARGET).values(), signatures(both, TARGET).values()
    assert known != others
    point = next(p for p in points("c/matmul.c", TARGET.instructions) if p != default_point(call.kernel, TARGET))
    (tuned,) = apply(one, TARGET, {known: point})
    assert tuned.calls[0].kernel.tuned == point
    assert tuned.calls[0].kernel.params["NR"] == point["NR"]
    assert tuned.calls[0].arguments == call.arguments
    for choices in (
        {others: point},
        {known: {"MR": 5, "NR": 7}},
        {known: {"WARP": 32}},
        {known: default_point(call.kernel, TARGET)},
    ):
        assert apply(one, TARGET, choices) == one
