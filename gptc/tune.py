"""Find the blocking of kernels that is fastest on this machine: `gptc tune`.

Candidates are what the templates' headers declare (`gptc/codegen/tuning.py`).  A round gives every kernel that may be
tuned its next candidate and runs whole training steps in turns with the defaults, so that both meet the same caches
and the same minutes of the machine.  A blocking decides where sums are kept, never in which order they are added: a
round must leave the same bits as the defaults, or it is dropped.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptc.compiler import Planned, emit_model, lower, plan
from gptc.contracts import SEGMENTS
from gptc.errors import InputError
from gptc.request import Request
from gptc.runtime.build import build
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.profile import WARM_UP, TrainingStep, time_calls
from gptc.runtime.tuning import Choices, save_tuning

if TYPE_CHECKING:
    from gptc.codegen.tuning import Point

REPEATS = 5
GAIN = 0.02
"""Share of a kernel's time that a candidate must save to be chosen: less is the machine's noise."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Kernel:
    """A kernel that may be tuned, under the name that it has with its defaults."""

    name: str
    signature: str
    default: Point
    candidates: tuple[Point, ...]


@dataclass(frozen=True)
class Finding:
    """The best of a kernel's values, and the ms of all its calls in a step with the defaults and with them."""

    kernel: str
    point: Point
    default_ms: float
    ms: float


@dataclass(frozen=True)
class Report:
    """What came of it.  `default_ms` and `ms` are of whole steps, in turns."""

    findings: tuple[Finding, ...]
    rounds: int
    left: int
    """Rounds for which there was no time."""
    dropped: int
    """Rounds that gave other bits."""
    default_ms: float
    ms: float
    path: Path | None
    """Where the choices are kept; None where the defaults stay."""


def tune(
    request: Request, seconds: float, threads: int | None = None, cache: Cache | None = None,
    progress: Progress = lambda done, total, note: None,
) -> Report:  # fmt: skip
    """Search for about `seconds`, the comparison at the end included, and keep what was found in the cache.

    InputError for a target that is no CPU.
    """
    from gptc.codegen.target import target_for

    if target_for(request.options).cpu is None:
        raise InputError.of(f"target {request.options.target} has nothing to tune", None, "use --target c")
    began, cache = time.perf_counter(), cache or Cache()
    with tempfile.TemporaryDirectory() as folder:
        search = _Search(plan(request), Path(folder), threads, cache)
        total = max((len(kernel.candidates) for kernel in search.kernels), default=0)
        search.default.warm_up()
        ready = time.perf_counter()
        search.default()
        # A round, and the comparison at the end, builds what is tried and runs steps of both.
        longest = ready - began + 2 * (WARM_UP + REPEATS) * (time.perf_counter() - ready)
        done = 0
        while done < total and time.perf_counter() - began + 2 * longest < seconds:
            start = time.perf_counter()
            search.round(done)
            longest, done = max(longest, time.perf_counter() - start), done + 1
            progress(done, total, f"{time.perf_counter() - began:.0f} s")
        return search.finish(done, total)


class _Search:
    """The defaults' model, and the best that was found for each kernel so far."""

    def __init__(self, planned: Planned, folder: Path, threads: int | None, cache: Cache) -> None:
        from gptc.codegen.target import target_for

        self.planned, self.folder, self.threads, self.cache = planned, folder, threads, cache
        self.target = target_for(planned.options)
        self.kernels = _kernels(planned)
        self.default = self._step({})
        self.found: dict[str, Finding] = {}
        self.dropped = 0

    def round(self, number: int) -> None:
        """Every kernel's candidate of that number."""
        points = {k.name: k.candidates[number] for k in self.kernels if number < len(k.candidates)}
        other = self._step({k.signature: dict(points[k.name]) for k in self.kernels if k.name in points})
        spans = _race(self.default, other)
        if spans is None:
            self.dropped += 1
            return
        names = np.array([call.kernel for call in self.default.calls])
        for name, point in points.items():
            default, ms = np.median(spans[:, :, names == name].sum(axis=2), axis=1)
            best = self.found.get(name)
            if ms < (1 - GAIN) * default and (best is None or ms / default < best.ms / best.default_ms):
                self.found[name] = Finding(name, point, float(default), float(ms))

    def finish(self, done: int, total: int) -> Report:
        """All that was found together against the defaults; what is no gain then is not kept."""
        step = [float(time_calls(self.default).sum()) for _ in range(REPEATS)]
        before = after = statistics.median(step)
        keep = False
        if self.found:
            spans = _race(self.default, self._step(self._choices()))
            if spans is not None:
                before, after = (float(ms) for ms in np.median(spans.sum(axis=2), axis=1))
                keep = _keeps(before, after)
        findings = tuple(sorted(self.found.values(), key=lambda f: f.ms - f.default_ms)) if keep else ()
        path = save_tuning(self.cache.root, self.target.instructions.name, self._choices()) if keep else None
        return Report(findings, done, total - done, self.dropped, before, after, path)

    def _choices(self) -> Choices:
        """What is best for each kernel, which may be its default."""
        return {
            k.signature: dict(self.found[k.name].point if k.name in self.found else k.default) for k in self.kernels
        }

    def _step(self, choices: Choices) -> TrainingStep:
        artefact, _ = emit_model(self.planned, self.folder, choices)
        model = CpuModel(artefact, build(artefact, artefact.manifest.build.compiler, self.cache).library)
        if self.threads:
            model.set_threads(self.threads)
        return TrainingStep(model)


def _kernels(planned: Planned) -> tuple[Kernel, ...]:
    """What may be tuned, with the default left out of the candidates and large blocks first: most often they win."""
    from gptc.codegen.target import target_for
    from gptc.codegen.tuning import default_point, points, signatures

    target = target_for(planned.options)
    programs = lower(planned, target, {})
    specs = {call.kernel.name: call.kernel for program in programs for call in program.calls}
    found = []
    for name, signature in signatures(programs, target).items():
        default = default_point(specs[name], target)
        declared = points(target.template(specs[name].template), target.instructions)
        others = [point for point in declared if point != default]
        found.append(Kernel(name, signature, default, tuple(sorted(others, key=lambda p: -math.prod(p.values())))))
    return tuple(found)


def _keeps(default_ms: float, ms: float) -> bool:
    """Whether a step with all that was found is faster than with the defaults."""
    return ms < default_ms


def _race(default: TrainingStep, other: TrainingStep) -> NDArray[np.float64] | None:
    """Milliseconds of (who, repeat, call), steps taken in turns from the same state; None if the bits differ then."""
    for segment in SEGMENTS:
        other.model.segment(segment)[...] = default.model.segment(segment)
    other.number = default.number
    default.warm_up()
    other.warm_up()
    spans = np.array([[time_calls(step) for step in (default, other)] for _ in range(REPEATS)])
    same = all(
        np.array_equal(default.model.segment(segment), other.model.segment(segment)) for segment in ("params", "state")
    )
    return spans.transpose(1, 0, 2) if same else None
