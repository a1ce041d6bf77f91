"""`gptc bench`: the figures hang together, and what cannot be measured is refused."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.compiler import Compiled
from gptc.errors import NumericsError
from gptc.runtime import machine
from gptc.runtime.cpu import CpuModel
from gptc.runtime.profile import TrainingStep, time_kernels, time_steps
from tests.cli.command import ROOT, gptc, one_object
from tests.conftest import TINY
from tests.templates.kernel_library import BF16


@pytest.fixture(scope="module")
def kernels(home: Path) -> dict[str, Any]:
    return one_object(gptc(home, "bench", "kernels", TINY, "--repeats", "5", "--threads", "2", "--json"))


def check_common(result: dict[str, Any], repeats: int) -> None:
    """What both benches say."""
    low, high = result["quartiles"]
    assert result["ok"]
    assert len(result["repeats"]) == repeats
    assert 0 < min(result["repeats"]) <= low <= result["ms"] <= high <= max(result["repeats"])
    assert result["spread"] == pytest.approx((high - low) / result["ms"])
    tokens = result["batch"] * result["seq"] * result["micro_steps"]
    assert result["tokens_per_s"] == pytest.approx(1e3 * tokens / result["ms"])
    assert math.isfinite(result["loss"])
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["cpu"]
    assert 10 << 20 < result["peak_rss"] < result["machine"]["memory"]


def test_train(home: Path) -> None:
    result = one_object(gptc(home, "bench", "train", TINY, "--repeats", "3", "--threads", "1", "--json"))
    check_common(result, 3)
    assert result["machine"]["threads"] == 1
    assert result["gflops"] == pytest.approx(result["flops"] / result["ms"] / 1e6)


def test_kernels_share_the_step_among_them(kernels: dict[str, Any]) -> None:
    check_common(kernels, 5)
    shares = [k["share"] for k in kernels["kernels"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1.0
    for kernel in kernels["kernels"]:
        assert kernel["calls"] >= 1
        assert kernel["bytes"] > 0
        assert kernel["gflops"] == pytest.approx(kernel["flops"] / kernel["ms"] / 1e6)
        assert kernel["dtype"] == "f32"
        assert kernel["of_peak"] == pytest.approx(kernel["gflops"] / kernels["probes"]["gflops"])


@pytest.mark.skipif(not BF16, reason="this machine has no AVX512_BF16")
def test_a_kernel_is_measured_by_the_peak_of_what_it_multiplies(home: Path) -> None:
    flags = ("--precision", "bf16", "--repeats", "3", "--threads", "1", "--json")
    result = one_object(gptc(home, "bench", "kernels", TINY, *flags))
    peaks = {"f32": result["probes"]["gflops"], "bf16": result["probes"]["bf16_gflops"]}
    assert {k["dtype"] for k in result["kernels"]} == {"f32", "bf16"}
    for kernel in result["kernels"]:
        assert (kernel["dtype"] == "bf16") == kernel["kernel"].startswith("gemm_")
        assert kernel["of_peak"] == pytest.approx(kernel["gflops"] / peaks[kernel["dtype"]])


def test_calls_are_those_of_the_programs(home: Path, kernels: dict[str, Any]) -> None:
    compiled = one_object(gptc(home, "compile", TINY, "--json"))
    assert sum(k["calls"] for k in kernels["kernels"]) == compiled["programs"]["step"]
    plan = json.loads((home / compiled["folder"] / "plan.json").read_text())
    step = next(p for p in plan["programs"] if p["name"] == "step")
    assert sum(k["flops"] for k in kernels["kernels"]) == sum(c["flops"] for c in step["kernels"])


def test_micro_steps_count_in_full(home: Path, kernels: dict[str, Any]) -> None:
    flags = ("--repeats", "3", "--micro-steps", "3", "--json")
    result = one_object(gptc(home, "bench", "kernels", TINY, *flags))
    check_common(result, 3)
    compiled = one_object(gptc(home, "compile", TINY, "--micro-steps", "3", "--json"))["programs"]
    assert sum(k["calls"] for k in result["kernels"]) == 3 * compiled["micro_step"] + compiled["update"]


def test_probes_are_within_what_hardware_can_be(kernels: dict[str, Any]) -> None:
    """Per core: below 100 MHz of scalar code and above two 512-bit units at 10 GHz are both impossible."""
    threads, probes = kernels["machine"]["threads"], kernels["probes"]
    assert threads == 2
    assert 0.1 < probes["gflops"] < threads * 2 * 16 * 2 * 10
    if BF16:
        assert 0.1 < probes["bf16_gflops"] < threads * 2 * 32 * 2 * 10
    else:
        assert probes["bf16_gflops"] is None
    assert 0.1 < probes["read_gbs"] < 10_000
    assert 0.1 < probes["triad_gbs"] < 10_000


def test_tables_for_people(home: Path) -> None:
    done = gptc(home, "bench", "kernels", TINY, "--repeats", "3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"ms a step \(quartiles .* of 3\)", done.stdout)
    assert re.search(r"kernel +calls +ms a step +% of step +GFLOP/s +% of peak +GB/s +% of memory", done.stdout)
    assert "cores of" in done.stdout
    rates = r"GFLOP/s of multiply-adds(?: \([\d,]+ of bf16\))?, [\d.]+ GB/s read, [\d.]+ GB/s triad"
    assert re.search(rf"probes: [\d,]+ {rates}", done.stdout)


@pytest.mark.parametrize("kind", ["train", "kernels"])
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--repeats", "0"], 1, "0 repeats: a median and its spread need at least 3"),
        (["--repeats", "2"], 1, "2 repeats"),
        (["--repeats", "-1"], 1, "-1 repeats"),
        (["--threads", "0"], 2, "threads"),
        (["--threads", "5000"], 1, "5000 threads"),
    ],
)
def test_bad_numbers(home: Path, kind: str, flags: list[str], code: int, words: str) -> None:
    done = gptc(home, "bench", kind, TINY, *flags)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert words in done.stderr


def test_no_such_model(home: Path) -> None:
    done = gptc(home, "bench", "train", "gpt9.yaml", "--json")
    assert done.returncode == 1
    assert "gpt9.yaml" in one_object(done)["errors"][0]["message"]


def test_a_step_that_computes_nonsense_is_no_measurement(tiny: Compiled, library: Path) -> None:
    model = CpuModel(tiny.artefact, library)
    step = TrainingStep(model)
    model[tiny.artefact.manifest.params[0].name][...] = np.nan
    with pytest.raises(NumericsError, match="the loss is nan"):
        time_steps(step, 3)
    with pytest.raises(NumericsError, match="the loss is nan"):
        time_kernels(step, 3)


def test_busy_machines_are_told() -> None:
    cores = os.cpu_count() or 1
    assert machine.warning(0.0) is None
    assert "busy" in str(machine.warning(machine.BUSY * cores + 0.5))
    assert "not known" in str(machine.warning(None))


def test_own_work_is_not_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 10 s the cores worked 14 s, and 9 s of that were ours."""
    worked, own, clock = iter([100.0, 114.0]), iter([1.0, 10.0]), iter([50.0, 60.0])
    monkeypatch.setattr(machine, "_busy", lambda: next(worked))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert machine.Neighbours().cores() == pytest.approx(0.5)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_another_process_is_a_neighbour() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(0.3)  # until it runs
            neighbours = machine.Neighbours()
            time.sleep(1.0)
            cores = neighbours.cores()
        finally:
            other.kill()
    assert cores is not None
    assert 0.3 < cores < 1.1 * (os.cpu_count() or 1)


def test_peers_refuse_too_few_repeats() -> None:
    argv = [sys.executable, str(ROOT / "bench/peers.py"), "--torch-python", "python", "--repeats", "2"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 3 repeats" in done.stderr


def test_decode(home: Path) -> None:
    arguments = ("--prompt", "5", "--repeats", "6", "--seq", "16", "--precision", "int8", "--threads", "1", "--json")
    result = one_object(gptc(home, "bench", "decode", TINY, *arguments))
    assert len(result["repeats"]) == 6
    assert result["tokens_per_s"] == pytest.approx(1e3 / result["ms"])
    assert result["of_memory"] == pytest.approx(result["bytes"] / result["ms"] / 1e6 / result["probes"]["read_gbs"])
    assert result["precision"] == "int8"
    assert result["prefill"]["ms"] > 0


def test_decode_must_fit_its_positions(home: Path) -> None:
    done = gptc(home, "bench", "decode", TINY, "--prompt", "9", "--repeats", "6", "--seq", "16")
    assert done.returncode == 1
    assert "need as many positions" in done.stderr
