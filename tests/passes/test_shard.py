"""Ranks that divide state and squares compute what ranks with all of them do, to the bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gptc.ir.analysis import buffers, live_bytes
from gptc.ir.graph import Graph
from gptc.ir.interp import Feeds, interpret, interpret_ranks
from gptc.ir.ops.leaf import Buffer
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.bucket import Bucket
from gptc.passes.differentiate import parameters
from gptc.passes.manager import Context, run_pass, run_pipeline
from gptc.passes.memory import Memory
from gptc.shares import LINE, part, share
from tests.passes.gpt2 import Gpt2, Training, compiled, feeds

SIZES = Gpt2(B=2, T=5, L=2)
RANKS = (2, 3, 7)
MASTERS = Training()
NO_MASTERS = [Training(master_weights=False, rounding=rounding) for rounding in ("nearest", "stochastic")]
WAYS: list[dict[str, Any]] = [
    {}, {"micro_steps": 2}, {"precision": "bf16"}, {"precision": "bf16", "target": "cuda"},
    *({"precision": "bf16", "training": training} for training in NO_MASTERS),
]  # fmt: skip


def step(shards: int, training: Training = MASTERS, **options: Any) -> Graph:
    """The program that updates; with `shards` 0 that of one rank."""
    chosen = Options(ranks=shards > 0, shards=max(shards, 1), **options)
    programs = compiled(SIZES.graph(), chosen, training)
    return programs["update" if "update" in programs else "step"]


def of_rank(graph: Graph, whole: Feeds, ranks: int, rank: int) -> dict[str, np.ndarray[Any, Any]]:
    """What a rank is fed: its share where the graph holds a share, gradients and tokens of its own."""
    found = dict(whole)
    rng = np.random.default_rng(rank)
    for node in buffers(graph).values():
        assert isinstance(node.op, Buffer)
        array = whole[node.op.key]
        if array.shape != node.op.shape:
            start, stop = part(array.size, ranks, rank)
            found[node.op.key] = np.pad(array.reshape(-1)[start:stop], (0, node.op.shape[0] - (stop - start)))
        elif node.op.key.endswith(".grad"):
            found[node.op.key] = rng.standard_normal(array.shape).astype(np.float32)
    for name in ("tokens", "targets"):
        if name in found:
            found[name] = rng.integers(0, SIZES.V, found[name].shape, np.int32)
    return found


@pytest.mark.parametrize("count", [1, 15, 16, 17, 768, 1000, 38_597_376])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 64])
def test_shares_cover_a_tensor(count: int, ranks: int) -> None:
    parts = [part(count, ranks, rank) for rank in range(ranks)]
    assert parts[0][0] == 0
    assert parts[-1][1] == count
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    assert max(stop - start for start, stop in parts) <= share(count, ranks) < count / ranks + LINE


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_divided_state_changes_no_bit(ranks: int, options: dict[str, Any]) -> None:
    plain, divided = step(1, **options), step(ranks, **options)
    given = feeds(plain, 1, SIZES.V)
    want = interpret_ranks(plain, [of_rank(plain, given, ranks, rank) for rank in range(ranks)])
    found = interpret_ranks(divided, [of_rank(divided, given, ranks, rank) for rank in range(ranks)])
    for rank in range(ranks):
        assert found[rank].keys() == {name for name in want[rank] if not name.endswith(".grad")}
        for name, array in found[rank].items():
            expected = want[rank][name]
            if expected.shape != array.shape:
                start, stop = part(expected.size, ranks, rank)
                expected, array = expected.reshape(-1)[start:stop], array[: stop - start]
            assert expected.tobytes() == array.tobytes(), name


def test_one_rank_that_squares_its_share_is_no_ranks() -> None:
    alone, job = step(0), step(1)
    given = feeds(alone, 1, SIZES.V)
    want, found = interpret(alone, given), interpret(job, given)
    assert {name: a.tobytes() for name, a in found.items()} == {name: a.tobytes() for name, a in want.items()}


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_parameters_are_gathered_where_they_lie(options: dict[str, Any]) -> None:
    """No copy of a parameter, of its state or of a gradient that is lent to the exchange."""
    context = Context()
    run_pass(step(3, **options), Memory(), context)
    assert not [r for r in context.remarks if "copied" in r.message]


def test_whole_gradients_end_early() -> None:
    """Shares take the place of gradients while others are still computed."""
    sizes, peaks = Gpt2(B=1, T=4, L=6, C=64, H=2), []
    for shards in (1, 4):
        passes = pipelines(Options(ranks=True, shards=shards), Training())["step"]
        small = tuple(Bucket(bytes=50_000) if isinstance(p, Bucket) else p for p in passes)
        peaks.append(max(live_bytes(run_pipeline(sizes.graph(), small, Context()))))
    gradients = sum(n.results[0].type.nbytes for n in parameters(sizes.graph()).values())
    assert peaks[0] > gradients
    assert peaks[1] < gradients * 0.75
