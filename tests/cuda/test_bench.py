"""`gptc bench` on a GPU: the fields that it has on a CPU, and what is told where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_bench import check_common
from tests.cli.test_cli import gptc, one_object
from tests.cuda.device import ARCH, needs_device


@pytest.mark.skipif(ARCH is not None, reason="there is a CUDA device")
def test_no_device(tmp_path: Path) -> None:
    done = gptc(tmp_path, "bench", "train", "gpt2-nano", "--target", "cuda", "--json")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert one_object(done)["errors"][0]["hint"]


@needs_device
def test_kernels_and_steps(tmp_path: Path) -> None:
    flags = ("gpt2-nano", "--target", "cuda", "--precision", "bf16", "--repeats", "5", "--json")
    step, kernels = (one_object(gptc(tmp_path, "bench", kind, *flags)) for kind in ("train", "kernels"))
    for result in (step, kernels):
        check_common(result, 5)
        assert result["gpu"]["name"]
        assert 0 < result["device_memory"] < result["gpu"]["total"]
        assert result["probes"]["gflops"] < result["probes"]["bf16_gflops"]
        assert 0 < result["probes"]["triad_gbs"] < 10_000
    assert step["gflops"] == pytest.approx(step["flops"] / step["ms"] / 1e6)
    assert {kernel["dtype"] for kernel in kernels["kernels"]} == {"f32", "bf16"}
    assert 0.3 < sum(kernel["share"] for kernel in kernels["kernels"]) <= 1.0
