"""Gradients of a whole GPT-2, every parameter: against central differences in float64, then the artefact's own."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.ir.types import DType
from tests.system.reference import (
    BATCH,
    ROUTES,
    SEQ,
    expected,
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
    """The buffers that a micro-step leaves hold the gradients."""
    check_program(workshop, "micro")


def test_step_of_the_artefact(workshop: Workshop) -> None:
    """Loss, norm, parameters and moments after a step that clips."""
    check_program(workshop, "fused")


def check_program(workshop: Workshop, route: str) -> None:
    """Run a program from the reference's weights, moments and tokens; its outputs are those of the reference."""
    program, options = ROUTES[route]
    model = workshop.build(batch=BATCH, seq=SEQ, micro=options.micro_steps).model()
    graph = stages(route)["schedule"]
    for key, array in feeds(graph).items():
        model[key][...] = array
    model.run(program)
    share = rounding(graph, DType.f32)
    for name, wanted in expected(route).items():
        assert np.abs(model[name] - wanted).max() <= share * np.abs(wanted).max(), name
