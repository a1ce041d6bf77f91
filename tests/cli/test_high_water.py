"""The high-water mark of an arena: what is told to be alive there adds up to the planner's lower bound."""

from __future__ import annotations

import pytest

from gptc.cli.high_water import HighWater, Tensor, by_layer, high_water
from gptc.codegen.target import target_for
from gptc.compiler import lower, plan
from gptc.contracts import ALIGNMENT
from gptc.options import Options
from gptc.passes.offsets import round_up
from gptc.request import Request
from tests.conftest import TINY


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_what_is_alive_adds_up_to_the_lower_bound(mode: str) -> None:
    planned = plan(Request(TINY, Options(mode=mode)))
    for program, report in zip(lower(planned, target_for(planned.options), {}), planned.memory.arenas, strict=True):
        most = high_water(program)
        assert sum(round_up(t.nbytes, ALIGNMENT) for t in most.alive) == report.lower_bound
        assert all(t.first <= most.call <= t.last for t in most.alive)
        assert sum(nbytes for *_, nbytes in by_layer(most.alive)) == most.nbytes


def test_layers_are_one_row() -> None:
    alive = [Tensor(f"h.{n}.x", "f32[8]", 64 * n, 32, 0, 9) for n in range(3)]
    most = HighWater(
        4, (*alive, Tensor("h.0.y", "f32[24]", 256, 96, 0, 9), Tensor("h.0.y.lse", "f32[1]", 384, 4, 0, 9))
    )
    assert by_layer(most.alive) == [
        ("h.*.x", "f32[8]", 3, 96), ("h.0.y", "f32[24]", 1, 96), ("h.0.y.lse", "f32[1]", 1, 4),
    ]  # fmt: skip
    assert most.nbytes == 196
