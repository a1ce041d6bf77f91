"""Gradients of a whole GPT-2, every parameter: against central differences in float64, then the artefact's own."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.ir.types import DType
from tests.system.reference import (
    BATCH,
    ROUTES,
    SEQ,
    feeds,
    gradients,
    rounding,
    slopes,
    stages,
    wrong_outputs,
)  # fmt: skip
from tests.system.workshop import Workshop

PASSES = [(route, name) for route in ROUTES for name in stages(route)]


@pytest.mark.parametrize("key", slopes())
def test_gradients_are_the_slopes_of_the_loss(key: str) -> None:
    for slope in slopes()[key]:
        assert slope.matches(gradients()[key]), (key, float(np.sum(gradients()[key] * slope.direction)), slope.value)


def test_slopes_are_sharp() -> None:
    """The errors that are allowed lie far below the slopes themselves."""
    dense = [slope for along in slopes().values() for slope in along[:1]]
    assert max(s.error for s in dense) < 1e-4 * np.median([abs(s.value) for s in dense])


@pytest.mark.parametrize(("route", "name"), PASSES)
def test_every_pass_keeps_the_step(route: str, name: str) -> None:
    """Loss, gradients, norm, parameters and moments after each pass: fused, on primitives, over micro-steps."""
    assert wrong_outputs(stages(route)[name], route) == []


def test_gradients_of_the_artefact(workshop: Workshop) -> None:
    """The buffers that a micro-step leaves hold the interpreter's gradients."""
    micro_steps = ROUTES["micro"][1].micro_steps
    model = workshop.build(batch=BATCH, seq=SEQ, micro=micro_steps).model()
    graph = stages("micro")["schedule"]
    arrays = feeds(graph)
    for port in ("tokens", "targets", "first", *gradients()):
        model[port][...] = arrays[port]
    model.run("micro_step")
    share = rounding(graph, DType.f32)
    for key, gradient in gradients().items():
        error = np.abs(micro_steps * model[f"{key}.grad"] - gradient).max()
        assert error <= share * np.abs(gradient).max(), key
