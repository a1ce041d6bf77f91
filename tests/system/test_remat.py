"""Recomputation in built C: less memory, the same weights to the last bit."""

from __future__ import annotations

import hashlib

import pytest

from gptc.codegen.target import describe
from tests.system.test_determinism import trained
from tests.system.workshop import NANO, Workshop


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_weights_do_not_depend_on_what_is_kept(workshop: Workshop, precision: str) -> None:
    if precision == "bf16" and not describe("cc", "native").bf16:
        pytest.skip("this machine has no AVX512_BF16")
    hashes, arenas = set(), []
    for level in ("none", "cheap", "block:2", "block"):
        built = workshop.build(NANO, batch=4, seq=64, remat=level, precision=precision)
        model = built.model()
        losses = trained(model)
        hashes.add((losses, hashlib.sha256(model.segment("params").data).hexdigest()))
        arenas.append(built.artefact.manifest.segments["arena"])
    assert len(hashes) == 1
    assert max(arenas[1:]) < arenas[0]
