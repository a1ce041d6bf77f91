"""Where numbers end, the error names the first tensor, its op, its kernel and its line; weights stay as they were."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from gptc.errors import NumericsError
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.events import Event, Step
from gptc.runtime.loader import Loader
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.train import train
from gptc.runtime.world import World
from tests.system.workshop import TINY, Workshop

STOP = 3


def line_of(text: str) -> str:
    """`file:line` of the model's line that holds `text`."""
    lines = TINY.read_text().splitlines()
    return f"tiny.yaml:{1 + next(i for i, line in enumerate(lines) if text in line)}"


def stopped(model: CpuModel, harm: Callable[[], None], world: World | None = None, lr: float = 1e-3) -> str:
    """Train, do `harm` to the model after a few steps; the message of the end, where nothing has changed since."""
    dims = model.artefact.manifest.dims
    loader = Loader([Memory((np.arange(2000) * 7 % dims["V"]).astype(np.uint16))], dims["B"], dims["T"], dims["V"])
    lasting: list[bytes] = []

    def report(event: Event) -> None:
        if isinstance(event, Step):
            if event.step == STOP:
                harm()
            lasting[:] = [segment(model)]

    with pytest.raises(NumericsError) as caught:
        train(
            model, Data("numbers", loader, loader), TrainSettings(20, lr=lr, schedule="constant"), report,
            world=world or World(),
        )  # fmt: skip
    assert caught.value.code == 4
    assert world or segment(model) == lasting[0]
    return str(caught.value)


def segment(model: CpuModel) -> bytes:
    """Weights and moments."""
    state = [model[tensor.name].tobytes() for tensor in model.artefact.manifest.state if ".grad" not in tensor.name]
    return b"".join([model.segment("params").tobytes(), *state])


@pytest.mark.parametrize("micro", [1, 2])
def test_a_number_lost_in_a_weight(workshop: Workshop, micro: int) -> None:
    model = workshop.build(micro=micro).model()

    def harm() -> None:
        model["h.1.fc.w"][3, 5] = np.nan

    told = stopped(model, harm)
    assert f"error: step {STOP + 1}: the loss is nan; the first tensor that is not finite is h.1.fc.w f32[" in told
    assert "1 of 4,096 numbers are not finite, the first at [3, 5]: nan\n  it was so before the step" in told


@pytest.mark.parametrize("route", ["fused", "primitive"])
def test_attention_overflows(workshop: Workshop, route: str) -> None:
    """Keys and queries of 1e20 have scores that no float32 holds.  The -inf of a mask is none of the culprits."""
    built = workshop.build() if route == "fused" else workshop.build(fuse=False, recognise=False)
    model = built.model()

    def harm() -> None:
        model["h.1.qkv.w"][...] = 1e19 * np.sign(model["h.1.qkv.w"])

    told = stopped(model, harm)
    assert line_of("matmul(p, v)" if route == "fused" else "matmul_nt(q, k)") in told.splitlines()[0]
    assert f"step {STOP + 1}: the loss is nan; the first tensor that is not finite is h.1." in told
    op, kernel = ("attention", "attention_") if route == "fused" else ("matmul", "gemm_")
    assert f"written by {op} in h.1: call " in told
    assert f" of step, kernel {kernel}" in told
    assert "help: lower the learning rate" in told


@pytest.mark.parametrize("micro", [1, 2])
def test_a_rate_that_explodes(workshop: Workshop, micro: int) -> None:
    told = stopped(workshop.build(micro=micro).model(), lambda: None, lr=1e30)
    assert "step 2: the loss is" in told
    assert "; the first tensor that is not finite is " in told
    assert "tiny.yaml:" in told.splitlines()[0]
    assert re.search(
        r"\n  [\d,]+ of [\d,]+ numbers are not finite, the first at \[.*\]: (nan|-?inf)\n  written by \w+", told
    )


def test_a_machine_that_errs(workshop: Workshop) -> None:
    """The loss is no number, and the same step again finds nothing wrong."""

    class Flaky(World):
        calls = 0

        def mean(self, *values: float) -> tuple[float, ...]:
            self.calls += 1
            return (float("nan"),) if self.calls == STOP else values

    told = stopped(workshop.build().model(), lambda: None, Flaky())
    assert told == (
        f"error: step {STOP}: the loss is nan\n"
        "  repeated, it is finite: nothing is wrong with the numbers, so the machine may have erred\n"
        "  help: go on from the last checkpoint with --resume auto"
    )
