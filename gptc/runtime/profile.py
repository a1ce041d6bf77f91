"""Measure training steps: how long a whole one takes, and how much of it each kernel.

Reads: a loaded artefact, and what `plan.json` says that each kernel call computes and moves.  Does not: say how
fast the machine is (`probe`), or print.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, NumericsError
from gptc.runtime.artefact import Artefact
from gptc.runtime.calls import planned
from gptc.runtime.init import fill
from gptc.runtime.loss_scale import FIRST
from gptc.runtime.model import Model

FEWEST = 3
"""Repeats below which a median and a spread say nothing."""
WARM_UP = 2
SEED = 42

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Times:
    """Milliseconds of the repeats, in the order they ran."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return low, high

    def to_json(self) -> dict[str, Any]:
        """`spread` is the distance of the quartiles as a share of the median."""
        low, high = self.quartiles
        spread = (high - low) / self.median
        return {"ms": self.median, "quartiles": [low, high], "spread": spread, "repeats": list(self.ms)}


@dataclass(frozen=True)
class Call:
    """One kernel call of a program: floating-point operations, and bytes if each operand is read once."""

    kernel: str
    flops: int
    bytes: int
    dtype: str
    """What it multiplies: "f32", "bf16" or "f16"."""


@dataclass(frozen=True)
class KernelTime:
    """A kernel in one step: its calls together.  `share` is of the step, over all repeats."""

    kernel: str
    calls: int
    ms: float
    share: float
    flops: int
    bytes: int
    dtype: str

    @property
    def gflops(self) -> float:
        return self.flops / self.ms / 1e6

    @property
    def gbs(self) -> float:
        return self.bytes / self.ms / 1e6


def calls_of(artefact: Artefact) -> dict[str, tuple[Call, ...]]:
    """Program -> its kernel calls in order, as `plan.json` has them."""
    return {program["name"]: tuple(map(_call, program["kernels"])) for program in planned(artefact)}


class _Numpy:
    """NumPy's own random numbers: a tenth of the time that PyTorch's take, and as good to measure with."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(SEED)

    def normal(self, n: int, std: float) -> NDArray[np.float32]:
        return self._rng.standard_normal(n, np.float32) * np.float32(std)

    def uniform(self, n: int) -> NDArray[np.float32]:
        return self._rng.random(n, np.float32)


def _call(entry: dict[str, Any]) -> Call:
    return Call(entry["kernel"], entry["flops"], entry["bytes"], entry["dtype"])


class TrainingStep:
    """A step of a model that trains, ready to be repeated on one random batch, of which ranks have each their own."""

    def __init__(self, model: Model, rank: int = 0) -> None:
        manifest = model.artefact.manifest
        if manifest.train is None:
            raise InputError.of(f"{manifest.model} was compiled for inference", None, "compile it for training")
        self.model, self.number, self.lr = model, 0, manifest.train.lr
        self.batch, self.seq, vocabulary = (manifest.dims[name] for name in ("B", "T", "V"))
        count = manifest.micro_steps
        self.programs = ("step",) if count == 1 else (*["micro_step"] * count, "update")
        self.tokens = self.batch * self.seq * count
        ids = np.random.default_rng(SEED + rank).integers(0, vocabulary, (self.batch, self.seq + 1), dtype=np.int32)
        model["tokens"][...], model["targets"][...] = ids[:, :-1], ids[:, 1:]
        fill(model, _Numpy())

    @property
    def calls(self) -> tuple[Call, ...]:
        """The kernel calls of a whole step in order."""
        of = calls_of(self.model.artefact)
        return tuple(call for program in self.programs for call in of[program])

    def __call__(self, run: Callable[[str], object] | None = None) -> None:
        """Run it; `run` does so with each program, unless the model shall."""
        self.number += 1
        for index, program in enumerate(self.programs):
            scalars = {"lr": self.lr, "step": float(self.number), "first": float(index == 0), "loss_scale": FIRST}
            for name in self.model.artefact.program(program).inputs:
                if name in scalars:
                    self.model[name][...] = scalars[name]
            (run or self.model.run)(program)

    def warm_up(self) -> None:
        """Every page that a step uses is touched, by the threads that will use it, before time is taken."""
        for _ in range(WARM_UP):
            self()

    def check(self) -> None:
        """Figures of a step that computes nonsense are worth nothing."""
        if not math.isfinite(loss := float(self.model["loss"])):
            hint = "choose a lower rate with --set train.lr=..."
            raise NumericsError.of(f"after {self.number} steps on one batch the loss is {loss}", None, hint)


def time_steps(step: TrainingStep, repeats: int, progress: Progress = lambda done, total: None) -> Times:
    """Time whole steps."""
    check_repeats(repeats)
    step.warm_up()
    times = []
    for done in range(repeats):
        began = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - began))
        progress(done + 1, repeats)
    step.check()
    return Times(tuple(times))


def time_kernels(
    step: TrainingStep, repeats: int, progress: Progress = lambda done, total: None
) -> tuple[Times, tuple[KernelTime, ...]]:
    """Time each kernel call from inside the step, where caches are as they really are.

    Returns the steps' own times, which hold a microsecond or two more for each call than those of `time_steps`,
    and the kernels by falling share.
    """
    check_repeats(repeats)
    steps: list[float] = []
    spans: list[NDArray[np.float64]] = []
    step.warm_up()
    for done in range(repeats):
        began = time.perf_counter()
        spans.append(time_calls(step))
        steps.append(1e3 * (time.perf_counter() - began))
        progress(done + 1, repeats)
    step.check()
    return Times(tuple(steps)), _by_kernel(step.calls, np.array(spans), sum(steps))


def time_calls(step: TrainingStep) -> NDArray[np.float64]:
    """Milliseconds of each kernel call in one step."""
    ms: list[float] = []
    step(lambda program: ms.extend(step.model.time_calls(program)))
    return np.array(ms)


def _by_kernel(calls: Sequence[Call], spans: NDArray[np.float64], total: float) -> tuple[KernelTime, ...]:
    """`spans` has the ms of (repeat, call); `total` is what all repeats took."""
    found = []
    for name in dict.fromkeys(call.kernel for call in calls):
        which = [index for index, call in enumerate(calls) if call.kernel == name]
        of_step = spans[:, which].sum(axis=1)
        flops, moved = (sum(getattr(calls[index], what) for index in which) for what in ("flops", "bytes"))
        ms, share = float(np.median(of_step)), float(of_step.sum()) / total
        found.append(KernelTime(name, len(which), ms, share, flops, moved, calls[which[0]].dtype))
    return tuple(sorted(found, key=lambda kernel: -kernel.share))


def check_repeats(repeats: int) -> None:
    """InputError for too few."""
    if repeats < FEWEST:
        message = f"{repeats} repeats: a median and its spread need at least {FEWEST}"
        raise InputError.of(message, None, "--repeats 7 is a good number")
