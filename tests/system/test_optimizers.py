"""Every optimizer in built C: agrees with the interpreter, learns, in f32 and with copies of the weights in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptc.codegen.target import describe
from tests.system.test_determinism import trained
from tests.system.workshop import TINY, Workshop

RATES = {"adam": 3e-3, "sgd": 0.3, "lion": 1e-3, "tiger": 3e-3}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", RATES)
def test_learns(workshop: Workshop, tmp_path: Path, name: str, precision: str) -> None:
    if precision == "bf16" and not describe("cc", "native").bf16:
        pytest.skip("this machine has no AVX512_BF16")
    path = tmp_path / "model.yaml"
    text = TINY.read_text()
    path.write_text(text[: text.index("\ntrain:")] + f"\ntrain: {{optimizer: {name}, lr: {RATES[name]}, warmup: 0}}\n")
    built = workshop.build(path, batch=4, seq=16, precision=precision)
    losses = trained(built.model())
    assert losses[-1] < 0.98 * losses[0], losses
    kernels = {p.stem for p in (built.artefact.folder / "kernels").iterdir()}
    assert any(name in kernel or (name == "adam" and "adamw" in kernel) for kernel in kernels), kernels
