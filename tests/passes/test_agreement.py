"""Every pass preserves what a graph computes: interpreting before and after it agrees, in every pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptc.ir.graph import Graph
from gptc.ir.interp import check_plan, interpret
from gptc.ir.text import parse_graph, print_graph
from gptc.ir.types import Array
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.manager import Context, run_pass
from gptc.passes.memory import Memory
from tests.ir.random_graphs import VOCABULARY, graphs
from tests.passes.gpt2 import Gpt2, Training, agree, feeds, fresh_copies

ADDS_OUTPUTS = ("losses", "differentiate", "update")
"""Passes that add outputs, or put others in the place of what was there: what stays must agree."""


def walk(graph: Graph, options: Options, seed: int) -> None:
    """Run every pipeline and compare around every pass, then run the planned graph out of its memory."""
    arrays: dict[str, Array] = {}
    for name, passes in pipelines(options, Training()).items():
        context = Context(options)
        program = replace(graph, name=name)
        for pass_ in (*passes, Memory(options.plan)):
            before, program = program, run_pass(program, pass_, context)
            if getattr(pass_, "part", "") in ("apply", "refresh"):
                continue  # a program of its own
            arrays = feeds(program, seed, VOCABULARY) | feeds(before, seed, VOCABULARY) | arrays
            arrays |= fresh_copies(program, arrays)
            expected, found = (interpret(g, arrays, wide=True) for g in (before, program))
            assert pass_.name in ADDS_OUTPUTS or expected.keys() == found.keys()
            agree(expected, found, program)
        assert parse_graph(print_graph(program)) == program
        check_plan(program, feeds(program, seed, VOCABULARY))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(), st.booleans(), st.booleans(), st.sampled_from([1, 3]), st.sampled_from(["best", "naive"]))
def test_random_graphs(graph: Graph, recognise: bool, fuse: bool, micro_steps: int, plan: str) -> None:
    walk(graph, Options(recognise=recognise, fuse=fuse, micro_steps=micro_steps, plan=plan), seed=0)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("recognise", [True, False])
@pytest.mark.parametrize("micro_steps", [1, 2])
def test_gpt2(recognise: bool, fuse: bool, micro_steps: int) -> None:
    walk(Gpt2().graph(), Options(recognise=recognise, fuse=fuse, micro_steps=micro_steps), seed=1)


@pytest.mark.parametrize(("recognise", "micro_steps"), [(True, 1), (False, 1), (True, 2)])
def test_gpt2_in_bf16(recognise: bool, micro_steps: int) -> None:
    """Interpreted in float64 nothing is rounded, so even the casts change nothing."""
    walk(Gpt2().graph(), Options(precision="bf16", recognise=recognise, micro_steps=micro_steps), seed=2)
