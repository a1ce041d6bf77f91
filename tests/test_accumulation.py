"""A total batch in tokens: how many micro-steps it takes, and arithmetic that cannot be."""

from __future__ import annotations

import pytest

from gptc.accumulation import Asked, micro_steps
from gptc.errors import InputError
from gptc.model import load_description
from gptc.options import Options
from gptc.request import Request, bind
from tests.conftest import TINY

FLAGS = ("--micro-steps", "--total-batch")


@pytest.mark.parametrize(
    ("steps", "total", "ranks", "expected"),
    [(None, None, 1, 1), (3, None, 1, 3), (None, 524_288, 8, 16), (2, 512, 4, 2), (None, 256, 1, 4)],
)
def test_micro_steps(steps: int | None, total: int | None, ranks: int, expected: int) -> None:
    """llm.c's 124M: 524,288 tokens over 8 GPUs; small ones by hand."""
    batch, seq = (4, 1024) if total == 524_288 else (4, 16)
    assert micro_steps(Asked(steps, total, FLAGS), batch, seq, ranks) == expected


@pytest.mark.parametrize(
    ("steps", "total", "ranks", "message", "hint"),
    [
        (None, 100, 1, "--total-batch: 100 tokens .* 4 sequences x 16 tokens = 64 ", "64 (1 micro-step) and 128 (2 "),
        (None, 60, 1, "--total-batch: 60 tokens ", "the nearest is 64 (1 micro-step)"),
        (None, 320, 2, "320 tokens .* 2 ranks x 4 sequences x 16 tokens = 128 ", "256 (2 micro-steps) and 384 (3 "),
        (3, 256, 1, "--micro-steps 3 and --total-batch 256 disagree: .* 4 micro-steps", "leave --micro-steps out"),
    ],
)
def test_what_cannot_be(steps: int | None, total: int, ranks: int, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        micro_steps(Asked(steps, total, FLAGS), 4, 16, ranks)
    assert hint in str(caught.value.diagnostics[0].hint)


def test_the_command_stands_before_the_model() -> None:
    """The model's own micro-steps and total batch count where the command says nothing of either."""
    asked = load_description(TINY, ("train.total_batch=96",))  # B 2, T 12
    both = load_description(TINY, ("train.total_batch=96", "train.micro_steps=3"))
    plain = load_description(TINY)
    assert [bind(Request(TINY, **told), asked).micro_steps for told in ({}, {"micro_steps": 3})] == [4, 3]
    assert bind(Request(TINY, total_batch=240), asked).micro_steps == 10
    assert bind(Request(TINY, ranks=2), asked).micro_steps == 2
    assert bind(Request(TINY), plain).micro_steps == 1
    assert bind(Request(TINY, Options(mode="infer"), batch=7), both).micro_steps == 1
    with pytest.raises(InputError, match=r"--set:1:19: .*micro_steps 3 and train\.total_batch 96 disagree") as caught:
        bind(Request(TINY), both)
    assert caught.value.diagnostics[0].excerpt == "train.total_batch=96"
