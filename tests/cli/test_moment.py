"""The moment at which an arena is fullest: what is told to be alive then adds up to the planner's lower bound."""

from __future__ import annotations

import pytest

from gptc.cli.moment import Moment, Tensor, by_layer, fullest
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
        moment = fullest(program)
        assert sum(round_up(t.nbytes, ALIGNMENT) for t in moment.alive) == report.lower_bound
        assert all(t.first <= moment.call <= t.last for t in moment.alive)
        assert sum(nbytes for *_, nbytes in by_layer(moment.alive)) == moment.nbytes


def test_layers_are_one_row() -> None:
    alive = [Tensor(f"h.{n}.x", "f32[8]", 64 * n, 32, 0, 9) for n in range(3)]
    moment = Moment(4, (*alive, Tensor("h.0.y", "f32[24]", 256, 96, 0, 9), Tensor("h.0.y.lse", "f32[1]", 384, 4, 0, 9)))
    assert by_layer(moment.alive) == [
        ("h.*.x", "f32[8]", 3, 96), ("h.0.y", "f32[24]", 1, 96), ("h.0.y.lse", "f32[1]", 1, 4),
    ]  # fmt: skip
    assert moment.nbytes == 196
