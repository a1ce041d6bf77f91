"""Every optimizer in built C: learns and skips updates, in f32 and with copies of the weights in bf16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.codegen.target import describe
from gptc.runtime.cpu import CpuModel
from tests.system.test_determinism import trained
from tests.system.workshop import TINY, Workshop

RATES = {"adamw": 3e-3, "adam": 3e-3, "sgd": 0.3, "lion": 1e-3, "tiger": 3e-3}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", RATES)
def test_learns(workshop: Workshop, tmp_path: Path, name: str, precision: str) -> None:
    if precision == "bf16" and not describe("cc", "native").bf16:
        pytest.skip("this machine has no AVX512_BF16")
    path = tmp_path / "model.yaml"
    text = TINY.read_text()
    path.write_text(text[: text.index("\ntrain:")] + f"\ntrain: {{optimizer: {name}, lr: {RATES[name]}, warmup: 0}}\n")
    built = workshop.build(path, batch=4, seq=16, precision=precision)
    model = built.model()
    losses = trained(model)
    assert losses[-1] < 0.98 * losses[0], losses
    check_skipping(model)
    kernels = {p.stem for p in (built.artefact.folder / "kernels").iterdir()}
    assert any(name in kernel or (name == "adam" and "adamw" in kernel) for kernel in kernels), kernels


def check_skipping(model: CpuModel) -> None:
    """Limits below the loss and norm of the last step, and a weight that is no number: nothing changes, to the bit."""
    loss, norm = float(model["loss"]), float(model["norm"])
    segments = model.segment("params"), model.segment("state")
    for limits in ({"max_loss": loss / 2}, {"max_norm": norm / 2}, {"max_norm": -1.0}, {}):
        for name in ("max_loss", "max_norm"):
            model[name][...] = limits.get(name, 0.0)
        if not limits:
            model["ln_f.b"][0] = np.nan
        model.run("evaluate")  # which brings copies up to date
        before = [segment.tobytes() for segment in segments]
        model.run("step")
        assert model["clip_scale"] == 0
        assert [segment.tobytes() for segment in segments] == before, limits
