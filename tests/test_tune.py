"""`gptc tune`: what it finds is used by later compilations, and the results stay what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gptc.tune
from gptc.compiler import build_model, compile_model
from gptc.errors import InputError, ToolMissing
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.profile import TrainingStep
from gptc.runtime.tuning import load_tuning, save_tuning
from gptc.tune import _race, tune
from tests.cli.command import gptc as run_gptc
from tests.cli.command import one_object
from tests.conftest import TINY
from tests.system.workshop import Workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("tune"))


def steps(shop: Workshop, **options: bool) -> tuple[list[str], bytes]:
    """Kernels that are tuned, and the weights after two steps."""
    compiled = compile_model(Request(TINY, Options(**options)), shop.root / "build", shop.cache)
    model = CpuModel(compiled.artefact, build_model(compiled, shop.cache).library)
    TrainingStep(model).warm_up()
    return compiled.summary["tuned"], model.segment("params").tobytes()


def test_what_is_found_is_used(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, with a gain that everything has, so that something is found."""
    kernels = gptc.tune._kernels
    first = lambda planned: tuple(replace(k, candidates=k.candidates[:1]) for k in kernels(planned))  # noqa: E731
    monkeypatch.setattr(gptc.tune, "_kernels", first)
    monkeypatch.setattr(gptc.tune, "GAIN", -1e9)
    monkeypatch.setattr(gptc.tune, "_keeps", lambda default_ms, ms: True)
    before = steps(shop)
    seen: list[tuple[int, int]] = []
    report = tune(Request(TINY), 1e9, 2, shop.cache, lambda done, total, note: seen.append((done, total)))
    assert (seen, report.rounds, report.left, report.dropped) == ([(1, 1)], 1, 0, 0)
    assert report.findings
    assert report.path
    after, untuned = steps(shop), steps(shop, tune=False)
    assert (before[0], untuned[0]) == ([], [])
    assert len(after[0]) == len(report.findings)
    assert before[1] == after[1] == untuned[1]


def test_rounds_with_other_bits_are_dropped(shop: Workshop) -> None:
    built = shop.build(TINY)
    one, other = (TrainingStep(CpuModel(built.artefact, built.library)) for _ in range(2))
    spans = _race(one, other)
    assert spans is not None
    assert spans.shape == (2, gptc.tune.REPEATS, len(one.calls))
    assert np.all(spans > 0)
    other.lr *= 1.0001
    assert _race(one, other) is None


def test_time_is_kept(shop: Workshop) -> None:
    report = tune(Request(TINY), 0.0, None, shop.cache)
    assert (report.rounds, report.findings, report.path) == (0, (), None)
    assert report.left > 0


def test_time_is_left_for_the_end(monkeypatch: pytest.MonkeyPatch, shop: Workshop) -> None:
    """Of 20 s: 3 to begin, 5 for each round, 5 for the comparison of all that was found."""
    clock = [0.0]

    class Step:
        def warm_up(self) -> None:
            clock[0] += 0.2

        def __call__(self) -> None:
            clock[0] += 0.1

    class Search:
        kernels = (gptc.tune.Kernel("k", "s", {}, ({},) * 10),)
        default = Step()

        def __init__(self, *_: object) -> None:
            clock[0] += 3

        def round(self, number: int) -> None:
            clock[0] += 5

        def finish(self, done: int, total: int) -> tuple[int, float]:
            return done, clock[0] + 5

    monkeypatch.setattr(gptc.tune, "_Search", Search)
    monkeypatch.setattr(gptc.tune.time, "perf_counter", lambda: clock[0])
    rounds, end = tune(Request(TINY), 20.0, None, shop.cache)  # type: ignore[misc]
    assert rounds == 2
    assert end <= 20


def test_only_processors_are_tuned(tmp_path: Path) -> None:
    """Where there is nvcc; elsewhere that is what is told."""
    with pytest.raises((InputError, ToolMissing), match=r"nothing to tune|no CUDA compiler"):
        tune(Request(TINY, Options(target="cuda")), 1.0, None, Cache(tmp_path))


def test_commands(tmp_path: Path) -> None:
    found = one_object(run_gptc(tmp_path, "tune", TINY, "--seconds", "1", "--json"))
    assert {"findings", "rounds", "left", "ms", "default_ms", "path"} <= found.keys()
    assert run_gptc(tmp_path, "tune", TINY, "--seconds", "0").returncode == 2
    save_tuning(tmp_path / "cache", "another", {})
    compiled = one_object(run_gptc(tmp_path, "compile", TINY, "--no-build", "--json"))
    if not found["path"]:
        assert compiled["tuning"] == "tuned for other machines, not for this one"
    assert load_tuning(tmp_path / "cache", "another").choices == {}
    for file in (tmp_path / "cache/tuning").iterdir():
        file.write_text("{")
    assert run_gptc(tmp_path, "compile", TINY, "--no-build").returncode == 0
