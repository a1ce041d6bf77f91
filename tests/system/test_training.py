"""Training: every way to compile a model learns the same, and it does learn."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.check import check_artefact
from gptc.ir.types import DType
from gptc.runtime.data import Data, open_data
from gptc.runtime.events import Event, Step
from gptc.runtime.loader import Loader
from gptc.runtime.model import Model
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory, write_shard
from gptc.runtime.train import train
from gptc.runtime.weights import load_weights, save_weights
from tests.system.reference import rounding, stages
from tests.system.workshop import NANO, NEEDS_BF16, Built, Workshop, make, run_native

STEPS = 10
BATCH, SEQ = 2, 16


def tokens(count: int, vocabulary: int = 61) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Random tokens, the small ones more often."""
    return (np.random.default_rng(11).random(count) ** 2 * vocabulary).astype(np.uint16)


def losses(model: Model, steps: int = STEPS, batches: int = STEPS, lr: float | None = None) -> list[float]:
    """Losses of `steps` steps over `batches` batches of the batch size that the artefact has."""
    dims = model.artefact.manifest.dims
    micro_steps = model.artefact.manifest.micro_steps
    text = tokens(micro_steps * batches * dims["B"] * dims["T"] + 1)
    loader = Loader([Memory(text)], dims["B"], dims["T"], dims["V"])
    found: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Step):
            found.append(event.loss)

    schedule: dict[str, Any] = {} if lr is None else {"lr": lr, "schedule": "constant"}
    train(model, Data("random tokens", loader, loader), TrainSettings(steps, eval_batches=1, **schedule), report)
    return found


SHARE = max(rounding(stages(route)["schedule"], DType.f32) for route in ("fused", "primitive"))
"""What a step may lose to rounding."""


def allowed(built: Built, reference: Sequence[float], share: float = SHARE) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How far another way of computing `reference` may be from it.

    Backward error: rounding is as if the weights had been others, each by `share` of itself at most.  So much do the
    losses move when they are, and once more with every step, for each rounds anew.
    """
    spread = np.zeros(len(reference))
    for seed in range(4):
        model, random = built.model(), np.random.default_rng(seed)
        for param in model.artefact.manifest.params:
            valid = model.valid(param)
            valid *= (1 + share * random.choice([-1, 1], valid.shape)).astype(np.float32)
        spread = np.maximum(spread, np.abs(np.subtract(losses(model, len(reference)), reference)))
    return np.maximum.accumulate(spread) * (1 + np.arange(len(reference)))


UNFUSED = ({"fuse": False}, {"recognise": False}, {"recognise": False, "fuse": False})


@pytest.mark.parametrize("options", UNFUSED, ids=str)
def test_unfused_kernels_learn_the_same(workshop: Workshop, options: dict[str, Any]) -> None:
    built, other = workshop.build(), workshop.build(**options)
    assert other.artefact.program("step").calls > built.artefact.program("step").calls
    reference, found = losses(built.model()), losses(other.model())
    assert (np.abs(np.subtract(found, reference)) <= allowed(built, reference)).all(), (found, reference)


def test_another_learning_rate_is_not_the_same(workshop: Workshop) -> None:
    """What is allowed is little: an error of one percent in the update shows."""
    built = workshop.build()
    reference, found = losses(built.model(), lr=3e-3), losses(built.model(), lr=3.03e-3)
    assert (np.abs(np.subtract(found, reference)) > allowed(built, losses(built.model())))[1:].any()


@NEEDS_BF16
def test_bf16_learns_as_f32_does(workshop: Workshop) -> None:
    """Both factors of a product are rounded, each by half of bf16's eps: as if the weight were off by eps.

    A learning rate that is a third off differs by more than that.
    """
    built, narrow = workshop.build(), workshop.build(precision="bf16")
    reference, found = losses(built.model()), losses(narrow.model())
    bound = allowed(built, reference, DType.bf16.eps)
    assert found != reference
    assert (np.abs(np.subtract(found, reference)) <= bound).all(), (found, reference)
    other = losses(built.model(), lr=2e-3), losses(built.model(), lr=3e-3)
    assert (np.abs(np.subtract(*other)) > bound)[1:].any()


@NEEDS_BF16
@pytest.mark.parametrize("micro", [1, 2])
def test_copies_of_weights_follow_them(workshop: Workshop, tmp_path: Path, micro: int) -> None:
    """However weights come about, by updates, from a file or by hand, their copies are those very weights, rounded."""
    built = workshop.build(precision="bf16", micro=micro)
    assert built.artefact.manifest.copies
    trained, loaded = built.model(), built.model()
    losses(trained)
    written = {copy.name: trained[copy.name].copy() for copy in built.artefact.manifest.copies}
    save_weights(trained, tmp_path / "weights", STEPS)
    load_weights(loaded, tmp_path / "weights")
    for model in (trained, loaded):
        model["tokens"][...] = model["targets"][...] = 1
        model.run("evaluate")
    assert float(loaded["loss"]) == float(trained["loss"])
    for copy in built.artefact.manifest.copies:
        master = loaded[copy.name.removesuffix(".bf16")]
        for found in (written[copy.name], trained[copy.name], loaded[copy.name]):
            assert found.tobytes() == master.astype(ml_dtypes.bfloat16).tobytes(), copy.name
    loaded["wte"][...] *= 2
    loaded.run("evaluate")
    assert float(loaded["loss"]) != float(trained["loss"])


def test_naive_plan_gives_the_same_bits(workshop: Workshop) -> None:
    best, naive = (workshop.build(plan=plan).model() for plan in ("best", "naive"))
    assert len(naive.segment("arena")) > len(best.segment("arena"))
    assert losses(best) == losses(naive)
    assert best.segment("params").tobytes() == naive.segment("params").tobytes()


def test_micro_steps_equal_one_large_step(workshop: Workshop) -> None:
    """Four batches of two, or one of eight: the same losses and, in the first moments, the same gradients."""
    large, small = workshop.build(batch=4 * BATCH), workshop.build(batch=BATCH, micro=4)
    one, many = large.model(), small.model()
    reference, found = losses(one, steps=1), losses(many, steps=1)
    assert found == pytest.approx(reference, rel=SHARE)
    for tensor in one.artefact.manifest.state:
        if tensor.name.endswith(".m"):
            error = np.abs(one[tensor.name] - many[tensor.name]).max()
            assert error <= SHARE * np.abs(one[tensor.name]).max(), tensor.name
    reference, found = losses(large.model()), losses(small.model())
    assert (np.abs(np.subtract(found, reference)) <= allowed(large, reference)).all()


@pytest.mark.parametrize(
    ("micro_steps", "precision"), [(1, "f32"), (4, "f32"), pytest.param(2, "bf16", marks=NEEDS_BF16)]
)
def test_native_trainer_takes_the_same_steps(
    workshop: Workshop, tmp_path: Path, micro_steps: int, precision: str
) -> None:
    built = workshop.build(batch=BATCH, micro=micro_steps, precision=precision)
    shard, saved = tmp_path / "tokens.bin", tmp_path / "weights.safetensors"
    write_shard(shard, tokens(4000))
    folder = make(built.artefact, tmp_path, "train")
    native = run_native(folder, "--data", str(shard), "--steps", str(STEPS), "--save", str(saved))
    assert (native.returncode, native.stderr) == (0, "")
    model = built.model()
    dims = model.artefact.manifest.dims
    data = open_data(shard, "bytes", dims["B"], dims["T"], dims["V"])
    events: list[Event] = []
    train(model, data, TrainSettings(STEPS), events.append)
    found = [event.loss for event in events if isinstance(event, Step)]
    assert re.findall(r"train loss (\S+)", native.stdout) == [f"{loss:.6f}" for loss in found]
    weights = load_file(saved)
    for param in model.artefact.manifest.params:
        assert weights[param.name].tobytes() == np.ascontiguousarray(model.valid(param)).tobytes(), param.name


@pytest.mark.parametrize(("path", "vocabulary"), [(None, 61), (NANO, 256)], ids=["tiny", "gpt2-nano"])
def test_first_loss_is_that_of_a_guess(workshop: Workshop, path: Path | None, vocabulary: int) -> None:
    """Weights of standard deviation 0.02 give every token about the same probability."""
    model = (workshop.build(path, batch=4, seq=64) if path else workshop.build()).model()
    random = np.random.default_rng(3).integers(0, vocabulary, (2, *model["tokens"].shape), np.int32)
    model["tokens"][...], model["targets"][...] = random
    model.run("evaluate")
    assert abs(float(model["loss"]) - math.log(vocabulary)) < 0.3


def test_one_batch_is_learnt_by_heart(workshop: Workshop) -> None:
    found = losses(workshop.build().model(), steps=200, batches=1, lr=5e-3)
    assert found[0] > 3
    assert found[-1] < 0.1


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16)])
def test_a_llama_is_right_call_by_call_and_learns(workshop: Workshop, precision: str) -> None:
    """Rotary positions, grouped queries, a gated MLP: each kernel against the interpreter, then one batch by heart."""
    built = workshop.build(NANO.parent / "llama-nano.yaml", batch=2, seq=24, precision=precision)
    assert check_artefact(built.artefact, built.library).programs[:2] == ["evaluate", "step"]
    found = losses(built.model(), steps=100, batches=1, lr=2e-3)
    assert found[0] > 5
    assert found[-1] < 0.1
