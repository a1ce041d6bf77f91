"""Plans of whole programs: segments shared by all, arenas near their bound, outputs where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gptc.ir.analysis import ARENA
from gptc.ir.build import Builder
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret, interpret_planned
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.verify import verify
from gptc.model import build_graph, load_description
from gptc.options import Options
from gptc.passes.lower import Lower
from gptc.passes.manager import Context
from gptc.passes.memory import MemoryReport, plan_programs
from gptc.resources import models_dir
from tests.passes.gpt2 import Gpt2, Training, compiled, feeds

SIZES = Gpt2(T=8, C=32)


def planned(options: Options, sizes: Gpt2 = SIZES) -> tuple[tuple[Graph, ...], MemoryReport]:
    context = Context(options)
    programs = compiled(sizes.graph(), options, Training(), context)
    return plan_programs(tuple(programs.values()), context, options.plan)


@pytest.mark.parametrize("options", [Options(), Options(micro_steps=2), Options(recognise=False, fuse=False)])
def test_programs_compute_the_same_out_of_their_memory(options: Options) -> None:
    graphs, _ = planned(options)
    for graph in graphs:
        verify(graph, "planned")
        arrays = feeds(graph, 0, SIZES.V)
        expected, found = interpret(graph, arrays), interpret_planned(graph, arrays)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_segments_are_the_same_for_every_program() -> None:
    graphs, report = planned(Options(micro_steps=2))
    places: dict[str, str] = {}
    for graph in graphs:
        for node in graph.nodes:
            if isinstance(node.op, (Input, Buffer)):
                place = graph.plan[node.name]
                assert places.setdefault(node.op.key, str(place)) == str(place)
                assert report.offsets[place.segment, node.op.key] == place.offset
    assert [g.name for g in graphs] == ["micro_step", "update", "evaluate"]
    assert {str(g.plan[o.value.name]) for g in graphs for o in g.outputs if o.name == "loss"} == {
        f"io+{report.offsets['io', 'loss']}"
    }


def test_parameters_lie_in_the_order_of_the_model() -> None:
    _, report = planned(Options())
    keys = [n.op.key for n in SIZES.graph().nodes if isinstance(n.op, Buffer)]
    laid = sorted((offset, name) for (segment, name), offset in report.offsets.items() if segment == "params")
    assert [name for _, name in laid] == keys


def test_an_update_is_computed_in_its_buffers() -> None:
    context = Context()
    programs = compiled(SIZES.graph(), Options(), Training(), context)
    plan_programs(tuple(programs.values()), context)
    assert not [r for r in context.remarks if r.pass_name == "memory" and r.kind == "missed"]


def test_naive_gives_every_tensor_its_own_place() -> None:
    (step, _), report = planned(Options(plan="naive"))
    assert report.arenas[0].arena >= report.arenas[0].sum_of_tensors
    _, best = planned(Options())
    assert best.arenas[0].arena < report.arenas[0].arena
    assert best.arenas[0].sum_of_tensors == report.arenas[0].sum_of_tensors
    arrays = feeds(step, 0, SIZES.V)
    np.testing.assert_array_equal(interpret_planned(step, arrays)["loss"], interpret(step, arrays)["loss"])


@pytest.mark.parametrize("micro_steps", [1, 4])
@pytest.mark.parametrize("name", ["gpt2-nano", "llama-nano"])
def test_small_models_need_little_more_than_what_is_alive(name: str, micro_steps: int) -> None:
    """All shipped models: tests/system/test_shipped_models.py."""
    model, options = load_description(models_dir() / f"{name}.yaml"), Options(micro_steps=micro_steps)
    context = Context(options)
    programs = compiled(build_graph(model, options.batch, options.seq), options, model.train, context)
    _, report = plan_programs(tuple(programs.values()), context)
    for arena in report.arenas:
        assert arena.lower_bound <= arena.arena <= 1.05 * arena.lower_bound
    assert report.segments[ARENA] == max(a.arena for a in report.arenas)


def stores(*pairs: tuple[str, str]) -> Graph:
    """A program that stores the old values of buffers into buffers or hands them out."""
    b = Builder("moves")
    buffers = {k: b.buffer(label=k, key=k, role="state", shape=(3,)) for k in ("p", "q")}
    for name, source in pairs:
        b.output(name, buffers[source])
    return b.build()


@pytest.mark.parametrize(
    ("pairs", "copies"),
    [([("p", "q"), ("q", "p")], 4), ([("p", "p")], 0), ([("y", "p"), ("p", "q")], 4), ([("y", "p"), ("z", "p")], 4)],
)
def test_buffers_that_are_exchanged_are_copied_apart(pairs: Sequence[tuple[str, str]], copies: int) -> None:
    graph = stores(*pairs)
    (found,), _ = plan_programs([graph], Context())
    verify(replace(found, stage="planned"), "planned")
    arrays = {"p": np.array([1, 2, 3], np.float32), "q": np.array([4, 5, 6], np.float32)}
    assert len(found.nodes) - len(graph.nodes) == copies
    results = interpret_planned(found, arrays)
    for name, source in pairs:
        np.testing.assert_array_equal(results[name], arrays[source])


def test_a_value_that_is_read_after_its_buffer_changes_is_copied_in() -> None:
    """The old p is read by a node that itself needs the new p: the new one cannot be computed in its place."""
    b = Builder("late")
    p = b.buffer(label="p", key="p", role="state", shape=(3,))
    new = b.exp(p, label="new")
    b.output("p", new)
    b.output("y", b.add(p, new))
    context = Context()
    (found,), _ = plan_programs([b.build()], context)
    assert [r.message for r in context.remarks if r.kind == "missed"] == [
        "output p is copied: it cannot be computed in place"
    ]
    results = interpret_planned(found, {"p": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(results["p"], [1, 1, 1])
    np.testing.assert_array_equal(results["y"], [1, 1, 1])


def test_constants_and_inputs_can_be_outputs() -> None:
    b = Builder("leaves")
    b.output("half", b.scalar(0.5))
    b.output("same", b.input(label="x", key="x", shape=(2,)))
    (found,), _ = plan_programs([b.build()], Context())
    results = interpret_planned(found, {"x": np.array([1, 2], np.float32)})
    assert results["half"] == 0.5
    np.testing.assert_array_equal(results["same"], [1, 2])


def test_a_value_can_leave_under_several_names() -> None:
    b = Builder("twice")
    p, q = (b.buffer(label=key, key=key, role="state", shape=(3,)) for key in ("p", "q"))
    new = b.add(p, q)
    for name in ("p", "q", "y", "z"):
        b.output(name, new)
    context = Context()
    (found,), _ = plan_programs([Lower().run(b.build(), context)], context)
    verify(found, "planned")
    assert len([r for r in context.remarks if r.kind == "missed"]) == 3
    arrays = {"p": np.array([1, 2, 3], np.float32), "q": np.array([4, 5, 6], np.float32)}
    for array in interpret_planned(found, arrays).values():
        np.testing.assert_array_equal(array, [5, 7, 9])


def test_programs_must_agree_on_their_buffers() -> None:
    def program(size: int) -> Graph:
        b = Builder(f"of{size}")
        b.output("y", b.reduce_mean(b.buffer(label="p", key="p", shape=(size,))))
        return b.build()

    with pytest.raises(ValueError, match="p has two sizes: 12 and 16 bytes"):
        plan_programs([program(3), program(4)], Context())
