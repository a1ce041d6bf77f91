"""Orders: legal, no higher than the given one, and what they are meant to bring forward comes forward."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from gptc.ir.analysis import live_bytes
from gptc.ir.build import Builder
from gptc.ir.graph import Graph
from gptc.ir.verify import verify
from gptc.options import Options
from gptc.passes.manager import Context
from gptc.passes.schedule import Schedule
from tests.ir.random_graphs import graphs
from tests.passes.gpt2 import Gpt2, Training, compiled


def position(graph: Graph, name: str) -> int:
    return [n.name for n in graph.nodes].index(name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs())
def test_the_peak_does_not_rise(graph: Graph) -> None:
    found = Schedule().run(graph, Context())
    verify(found, "built")
    assert sorted(n.name for n in found.nodes) == sorted(n.name for n in graph.nodes)
    assert max(live_bytes(found)) <= max(live_bytes(graph))
    assert Schedule().run(found, Context()) == found


def test_a_node_that_frees_memory_runs_at_once() -> None:
    b = Builder("early")
    x = b.input(label="x", key="x", shape=(1000,))
    big = [b.exp(x, label=f"big{i}") for i in range(4)]
    small = [b.reduce_mean(y, label=f"small{i}") for i, y in enumerate(big)]
    for i, y in enumerate(small):
        b.output(f"y{i}", y)
    graph = b.build()
    found = Schedule().run(graph, Context())
    assert [n.name for n in found.nodes] == ["x", *(f"{n}{i}" for i in range(4) for n in ("big", "small"))]
    assert max(live_bytes(graph)) == 16_000
    assert max(live_bytes(found)) == 4_000


def test_old_values_are_read_before_they_are_overwritten() -> None:
    b = Builder("order")
    w = b.buffer(label="w", key="w", shape=(100,))
    g = b.exp(w, label="g")
    b.output("w", b.sub(w, g, label="new"))
    b.output("y", b.reduce_mean(b.neg(w, label="late"), label="y"))
    graph = b.build()
    assert position(graph, "late") > position(graph, "new")
    found = Schedule().run(graph, Context())
    assert position(found, "late") < position(found, "new")


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_squares_are_taken_while_the_gradient_is_in_the_cache(clip: float) -> None:
    step = compiled(Gpt2(C=32).graph(), Options(), Training(clip=clip))["step"]
    squares = [n for n in step.nodes if n.op.name == "sum_squares"]
    last = max(position(step, step.producer[n.operands[0].name].name) for n in squares)
    early = [n for n in squares if position(step, n.name) < last]
    assert len(early) > len(squares) / 2
