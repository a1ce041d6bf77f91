"""Inference with narrow weights: what is kept of f32 weights, and that kernels compute with what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.check import check_artefact
from gptc.errors import InputError
from gptc.quantisation import LARGEST, quantise
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached
from gptc.runtime.init import initialise
from tests.codegen.native import TARGET
from tests.system.workshop import TINY, Workshop

LENGTH = 96
FORMATS = ["int8", *(["bf16"] if TARGET.bf16 else [])]


def test_rows_in_8_bits() -> None:
    """Nearest to the row, so off by half a scale at most; the largest is exact; zeros stay zeros."""
    rows = np.random.default_rng(0).standard_normal((5, 33), np.float32)
    rows[2] = 0
    q, scale = quantise(rows)
    assert np.all(np.abs(scale[:, None] * q - rows) <= 0.5001 * scale[:, None])
    assert np.array_equal(np.abs(q).max(1), np.where(np.arange(5) == 2, 0, LARGEST))
    assert scale[2] == 0
    again, _ = quantise(scale[:, None] * q)
    assert np.array_equal(again, q)


@pytest.mark.parametrize("precision", FORMATS)
def test_weights_are_kept_narrow(workshop: Workshop, precision: str) -> None:
    built = workshop.build(TINY, batch=2, seq=LENGTH, mode="infer", precision=precision)
    check_artefact(built.artefact, built.library)
    matrices = [p for p in built.artefact.manifest.params if p.init.kind == "normal" and p.name != "wpe"]
    assert {p.dtype for p in matrices} == {"i8" if precision == "int8" else precision}
    assert all((p.scale is not None) == (precision == "int8") for p in matrices)
    assert {t.dtype for t in built.artefact.manifest.state if len(t.shape) == 4} == {"bf16"}


def logits(model: CpuModel, ids: list[int]) -> np.ndarray:
    initialise(model)
    source = Cached(model)
    return np.stack([source.logits(ids[:n], 0).copy() for n in (5, 70, 71, LENGTH)])


@pytest.mark.parametrize("precision", FORMATS)
def test_logits_stay_near_those_of_f32(workshop: Workshop, precision: str) -> None:
    """A weight is off by up to 1/254 of the largest of its row in int8, 1/256 of itself in bf16; logits by a few."""
    ids = np.random.default_rng(1).integers(0, 61, LENGTH).tolist()
    wide, narrow = (
        logits(workshop.build(TINY, batch=1, seq=LENGTH, mode="infer", precision=p).model(), ids)
        for p in ("f32", precision)
    )
    assert 0 < np.linalg.norm(narrow - wide) <= 4 / 254 * np.linalg.norm(wide)


def test_int8_is_not_trained(workshop: Workshop) -> None:
    with pytest.raises(InputError, match="cannot be trained"):
        workshop.build(TINY, batch=1, seq=LENGTH, precision="int8")
