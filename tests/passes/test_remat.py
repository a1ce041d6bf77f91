"""Computing again keeps less and changes no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.compiler import plan, within_budget
from gptc.errors import InputError
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.options import Options
from gptc.passes.differentiate import Differentiate
from gptc.passes.layout import Layout
from gptc.passes.manager import Context, Pass, Remark, run_pipeline
from gptc.passes.precision import Precision
from gptc.passes.recognise import Recognise
from gptc.passes.remat import Remat, blocks
from gptc.passes.simplify import Simplify
from gptc.request import Request
from tests.passes.gpt2 import Gpt2, feeds

NANO = Path(__file__).parents[2] / "models" / "gpt2-nano.yaml"
SIZES = Gpt2(B=2, T=8, L=3, H=2, C=24)


def backward(recognise: bool = True, precision: str = "f32") -> Graph:
    composites: tuple[Pass, ...] = (Recognise(),) if recognise else ()
    passes = (Simplify(), *composites, Differentiate(), Precision(precision), Simplify(), Layout())
    return run_pipeline(SIZES.graph(), passes, Context())


def remat(graph: Graph, count: int | None) -> tuple[Graph, list[Remark]]:
    context = Context()
    return run_pipeline(graph, (Remat(count),), context), context.remarks


def kept(remarks: list[Remark]) -> int:
    return sum(r.bytes for r in remarks if r.kind == "note")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("recognise", [True, False])
def test_gradients_keep_every_bit(recognise: bool, precision: str) -> None:
    graph = backward(recognise, precision)
    given = feeds(graph, 1, SIZES.V)
    want = interpret(graph, given)
    totals = []
    for count in (0, 1, 2, None):
        again, remarks = remat(graph, count)
        assert len(again.nodes) > len(graph.nodes)
        totals.append(kept(remarks))
        found = interpret(again, given)
        assert found.keys() == want.keys()
        assert all(np.array_equal(found[name], want[name]) for name in want)
    assert totals == sorted(set(totals), reverse=True)


def test_what_is_kept_of_gpt2() -> None:
    """Cheap: q, k, v, attention and its log-sum-exp, both residuals, the input of GELU; statistics; logits."""
    n = SIZES
    rows = n.B * n.T
    layer = rows * (3 + 1 + 1 + 1 + 4) * n.C + n.B * n.H * n.T + 4 * rows
    ends = rows * (n.C + n.padded + 1) + 2 * rows  # embeddings, logits and their log-sum-exp, the last norm
    _, remarks = remat(backward(), 0)
    assert kept(remarks) == 4 * (n.L * layer + ends)


def test_of_a_block_only_the_input_is_kept() -> None:
    graph = backward()
    assert blocks(graph) == ["h.0", "h.1", "h.2"]
    _, remarks = remat(graph, None)
    inputs = [r for r in remarks if r.kind == "note" and r.bytes == 4 * SIZES.B * SIZES.T * SIZES.C]
    assert len(inputs) == SIZES.L + 1  # of each block, and of the last norm
    assert kept(remarks) == sum(r.bytes for r in inputs) + 4 * SIZES.B * SIZES.T * (SIZES.padded + 3)


def test_copies_stand_right_before_their_first_reader() -> None:
    graph, _ = remat(backward(), None)
    forward_ends = next(i for i, n in enumerate(graph.nodes) if n.origin.startswith("d "))
    again = [i for i, n in enumerate(graph.nodes) if n.origin.startswith("again ")]
    assert min(again) > forward_ends
    for name in ("h.0", "h.1"):
        copies = [i for i in again if graph.nodes[i].origin == f"again {name}"]
        other = [i for i, n in enumerate(graph.nodes) if n.origin == "d h.2"]
        assert min(copies) > min(other)


def request(level: str) -> Request:
    return Request(NANO, Options(remat=level), (), 8, 128)


def total(level: Request) -> int:
    return sum(plan(level).memory.segments.values())


def test_a_budget_takes_the_least_that_fits() -> None:
    takes = {level: total(request(level)) for level in ("none", "cheap", "block:1", "block:2", "block:3", "block:4")}
    assert list(takes.values()) == sorted(takes.values(), reverse=True)
    for level, size in takes.items():
        assert within_budget(request(f"budget={size}")).options.remat == level
    with pytest.raises(InputError, match="over the budget"):
        within_budget(request(f"budget={takes['block:4'] - 1}"))
