"""Pipelines as a user of `gptc opt` meets them: text, dumps, stopping, failures with a reproducer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from gptc.errors import InternalError, UsageError
from gptc.ir.build import Builder
from gptc.ir.graph import Graph
from gptc.ir.text import parse_graph
from gptc.options import Options
from gptc.passes import PASSES, pipelines
from gptc.passes.differentiate import Differentiate
from gptc.passes.manager import Context, parse_passes, run_pipeline, spell
from gptc.passes.schedule import Schedule
from gptc.passes.simplify import Simplify
from gptc.passes.update import Update
from tests.passes.gpt2 import Gpt2, Training


def doubled() -> Graph:
    """y = exp(x) + exp(x)."""
    b = Builder("doubled")
    x = b.input(label="x", key="x", shape=(3,))
    b.output("y", b.add(b.exp(x), b.exp(x)))
    return b.build()


@dataclass(frozen=True)
class Broken:
    """Fails at the last node, or leaves a graph without its first."""

    name: ClassVar[str] = "broken"
    stages: ClassVar[tuple[str, str]] = ("built", "built")
    raises: bool = True

    def run(self, graph: Graph, context: Context) -> Graph:
        if self.raises:
            context.node = graph.nodes[-1]
            raise IndexError("tuple index out of range")
        return replace(graph, nodes=graph.nodes[1:])


def test_pipelines_are_text_and_back() -> None:
    for options in (
        Options(),
        Options(micro_steps=3, precision="bf16", recognise=False, fuse=False),
        Options(mode="infer"),
    ):
        for passes in pipelines(options, Training()).values():
            assert parse_passes(",".join(map(spell, passes)), PASSES) == passes


def test_options_are_spelled_where_they_differ() -> None:
    assert spell(Update()) == "update"
    assert spell(Update("apply", clip=0.5)) == 'update{part="apply",clip=0.5}'
    assert parse_passes("simplify, differentiate{seed=0.25},schedule", PASSES) == (
        Simplify(), Differentiate(0.25), Schedule(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simplfy", "error: no pass is called 'simplfy'\n  help: did you mean 'simplify'?"),
        ("differentiate{sed=1}", "error: pass differentiate has no option 'sed'\n  help: did you mean 'seed'?"),
        ("differentiate{x=1}", "error: pass differentiate has no option 'x'\n  help: its options are seed, scaled"),
        ("recognise{x=1}", "error: pass recognise has no option 'x'\n  help: it has none"),
        (
            "differentiate{seed=x},fuse",
            "error: cannot read the value of differentiate's option 'seed': 'x'\n"
            '  help: values are JSON\'s, as 12, 0.5, true, "text"',
        ),
        ("differentiate{seed=1", "error: expected , or } after differentiate's option 'seed'"),
        ("simplify fuse", "error: expected a comma before ' fuse'"),
        ("{", f"error: no pass is called '{{'\n  help: passes are {', '.join(PASSES)}"),
    ],
)
def test_mistakes_in_the_text(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_passes(text, PASSES)
    assert str(caught.value) == message


def test_every_pass_is_called_what_its_file_is_called() -> None:
    for name, pass_ in PASSES.items():
        assert pass_.name == name
        assert pass_.__module__ == f"gptc.passes.{name}"
        assert pass_.__doc__


def test_dumps_are_numbered_and_say_what_changed(tmp_path: Path) -> None:
    graph = run_pipeline(doubled(), (Simplify(), Simplify()), Context(), dump=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00-input.gir", "01-simplify.diff", "01-simplify.gir", "02-simplify.diff", "02-simplify.gir",
    ]  # fmt: skip
    assert parse_graph((tmp_path / "00-input.gir").read_text()) == doubled()
    assert parse_graph((tmp_path / "02-simplify.gir").read_text()) == graph
    assert "-%exp_1: f32[3] = exp(%x)" in (tmp_path / "01-simplify.diff").read_text()
    assert (tmp_path / "02-simplify.diff").read_text() == "unchanged\n"


def test_stopping_observing_and_timing() -> None:
    context = Context()
    seen: list[tuple[str, int, int]] = []
    passes = pipelines(Options(), Training())["step"]
    graph = run_pipeline(
        Gpt2().graph(),
        passes,
        context,
        observer=lambda p, before, after: seen.append((p.name, len(before.nodes), len(after.nodes))),
        stop_after="precision",
    )
    assert graph.stage == "precise"
    assert [name for name, _, _ in seen] == [p.name for p in passes][: [p.name for p in passes].index("precision") + 1]
    assert [(t.pass_name, t.before, t.after) for t in context.timings] == seen
    assert all(t.seconds > 0 for t in context.timings)


def test_stopping_after_a_pass_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no pass 'fusion' in this pipeline"):
        run_pipeline(doubled(), (Simplify(),), Context(), stop_after="fusion")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lower,schedule,simplify", "pass simplify takes a graph at stage precise, this one is scheduled"),
        ("schedule", "pass schedule takes a graph at stage fused, this one is built"),
    ],
)
def test_passes_in_the_wrong_order_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_pipeline(doubled(), parse_passes(text, PASSES), Context())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Broken(), r"pass broken failed at %add of graph doubled: IndexError: tuple index out of range"),
        (Broken(raises=False), r"pass broken failed of graph doubled: .*%x is not defined before it is used"),
    ],
)
def test_a_failure_leaves_a_reproducer(
    broken: Broken, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        run_pipeline(doubled(), (broken,), Context())
    (file,) = tmp_path.iterdir()
    text = str(caught.value)
    assert re.search(message, text, re.DOTALL)
    assert f"the graph before the pass is in {file}" in text
    assert f"gptc opt {file} --passes='{spell(broken)}'" in text
    assert parse_graph(file.read_text()) == doubled()


def test_a_mistake_of_the_user_is_no_failure_of_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Exception, match="no output `loss`") as caught:
        run_pipeline(doubled(), (Differentiate(),), Context())
    assert caught.value.code == 1  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_remarks_read_well() -> None:
    context = Context()
    node = doubled().nodes[0]
    context.done("fuse", node, "saves memory", 2_500_000)
    context.missed("fuse", node.results[0], "used elsewhere", 10)
    assert [str(r) for r in context.remarks] == [
        "fuse: done: %x: saves memory (2.5 MB)",
        "fuse: missed: %x: used elsewhere",
    ]
