"""Buckets fill in the order of the backward pass, leave early and are awaited late."""

from __future__ import annotations

import numpy as np

from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.ops.collective import AllReduce, AllReduceBegin, AllReduceEnd
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.bucket import Bucket
from gptc.passes.manager import Context, run_pass, run_pipeline
from tests.passes.gpt2 import Gpt2, Training, compiled, feeds

SIZES = Gpt2(B=2, T=5, L=3)


def before() -> Graph:
    """The step as `bucket` meets it."""
    options = Options(ranks=True)
    passes = pipelines(options, Training())["step"]
    upto = next(i for i, p in enumerate(passes) if isinstance(p, Bucket))
    return run_pipeline(SIZES.graph(), passes[:upto], Context(options))


def test_every_gradient_travels_once() -> None:
    graph = before()
    exchanged = [n.operands[0].name for n in graph.nodes if isinstance(n.op, AllReduce)]
    after = run_pass(graph, Bucket(bytes=2000), Context())
    begins = [n for n in after.nodes if isinstance(n.op, AllReduceBegin)]
    ends = [n for n in after.nodes if isinstance(n.op, AllReduceEnd)]
    assert len(begins) == len(ends) > 3
    assert sorted(v.name for n in begins for v in n.operands) == sorted(exchanged)
    for begin in begins:
        sizes = [v.type.nbytes for v in begin.operands]
        assert sum(sizes[:-1]) < 2000, "the bucket was full before"
    position = {n.name: i for i, n in enumerate(after.nodes)}
    for begin in begins:
        last = max(position[after.producer[v.name].name] for v in begin.operands)
        between = after.nodes[last + 1 : position[begin.name]]
        assert all(isinstance(n.op, AllReduceBegin) for n in between)


def test_the_exchange_overlaps_with_the_backward_pass() -> None:
    options = Options(ranks=True)
    (step,) = (g for name, g in compiled(SIZES.graph(), options, Training()).items() if name == "step")
    names = [n.op.name for n in step.nodes]
    assert names.count("all_reduce_begin") == names.count("all_reduce_end")
    last_product = max(i for i, name in enumerate(names) if name == "gemm")
    assert names.index("all_reduce_end") > last_product
    assert "all_reduce" not in names


def test_one_rank_computes_what_no_exchange_does() -> None:
    plain = compiled(SIZES.graph(), Options(), Training())["step"]
    ranks = compiled(SIZES.graph(), Options(ranks=True), Training())["step"]
    given = feeds(plain, 1, SIZES.V)
    want, found = interpret(plain, given), interpret(ranks, given)
    assert all(np.array_equal(found[name], want[name]) for name in want)


def test_several_micro_steps_exchange_their_sum() -> None:
    programs = compiled(SIZES.graph(), Options(ranks=True, micro_steps=2), Training())
    kinds = {name: {n.op.name for n in graph.nodes} for name, graph in programs.items()}
    assert "all_reduce_begin" in kinds["update"]
    assert "all_reduce_begin" not in kinds["micro_step"]
