"""Both matmul templates: what they declare is what they emit, and it compiles, without spilled registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cuda.kernel_compiler import argument_names, compile_kernel, declared_arguments, emit, needs_nvcc, untidy

FORMS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}

PLAIN: dict[str, Any] = {
    "inputs": [],
    "results": [{"name": "c", "ctype": "bf16"}],
    "body": [],
    "stores": [("c", "acc")],
}
GELU: dict[str, Any] = {
    "inputs": [{"name": "bias", "access": "col", "ctype": "bf16"}],
    "results": [{"name": "pre", "ctype": "bf16"}, {"name": "c", "ctype": "bf16"}],
    "body": ["const float t0 = acc + bias;"],
    "stores": [("pre", "t0"), ("c", "gptc_gelu(t0)")],
}
RESIDUAL: dict[str, Any] = {
    "inputs": [
        {"name": "residual", "access": "full", "ctype": "bf16"},
        {"name": "bias", "access": "col", "ctype": "float"},
    ],
    "results": [{"name": "c", "ctype": "bf16"}],
    "body": [],
    "stores": [("c", "residual + (acc + bias)")],
}
ACCUMULATE: dict[str, Any] = {
    "inputs": [{"name": "old", "access": "full", "ctype": "float"}],
    "results": [{"name": "c", "ctype": "float"}],
    "body": [],
    "stores": [("c", "old + acc")],
}
EVERYTHING: dict[str, Any] = {
    "inputs": [
        *RESIDUAL["inputs"],
        {"name": "weight", "access": "row", "ctype": "float"},
        {"name": "factor", "access": "scalar", "ctype": "float"},
    ],
    "results": [{"name": "pre", "ctype": "float"}, {"name": "c", "ctype": "bf16"}],
    "body": ["const float t0 = acc + bias;", "const float t1 = t0 * weight + residual * factor;"],
    "stores": [("pre", "t0"), ("c", "t1")],
}

TURNS = {"BN": 192, "BLOCKS": 2, "STAGES": 4, "pingpong": True, "split": False, "fetch": False}
FETCH = TURNS | {"fetch": True}
SHARED = {"BN": 256, "BLOCKS": 1, "STAGES": 4, "pingpong": False, "split": False, "fetch": False}
SPLIT = SHARED | {"BN": 192, "STAGES": 5, "split": True}

SM90: dict[str, dict[str, Any]] = {
    "nt_gelu": {**TURNS, **GELU},
    "nt_residual": {**FETCH, **RESIDUAL},
    "nt_shared": {**SHARED, **PLAIN},
    "nn_plain": {**TURNS, **PLAIN},
    "tn_accumulate": {**SPLIT, **ACCUMULATE},
    "tt_plain": {**TURNS, **PLAIN},
}
SM80: dict[str, dict[str, Any]] = {
    f"{form}_{'aligned' if aligned else 'any'}_{kind}": {"aligned": aligned, **epilogue}
    for form, aligned, kind, epilogue in (
        ("nt", True, "everything", EVERYTHING),
        ("nn", True, "plain", PLAIN),
        ("tn", True, "accumulate", ACCUMULATE),
        ("tt", True, "plain", PLAIN),
        ("nt", False, "everything", EVERYTHING),
        ("tn", False, "accumulate", ACCUMULATE),
    )
}


def parameters(case: str) -> tuple[str, dict[str, Any]]:
    """Template and parameters of a case; its name begins with which matrices lie transposed."""
    trans_a, trans_b = FORMS[case[:2]]
    forms = {"dtype": "bf16", "trans_a": trans_a, "trans_b": trans_b}
    if case in SM90:
        return "matmul_sm90", {**forms, **SM90[case]}
    return "matmul", {**forms, "BM": 128, "BN": 128, "ROWS": 4, "COLUMNS": 2, "STAGES": 3, **SM80[case]}


@pytest.mark.parametrize("case", [*SM90, *SM80])
def test_emits_what_it_declares(case: str) -> None:
    template, params = parameters(case)
    text = emit(template, params)
    assert argument_names(text) == declared_arguments(template, params)
    assert not untidy(text)


@needs_nvcc
@pytest.mark.parametrize("case", ["nt_residual", "nt_any_everything"])
def test_compiles_in_f16(case: str, tmp_path: Path) -> None:
    template, params = parameters(case)
    text = emit(template, in_f16(params))
    assert "bf16" not in text
    report = compile_kernel(tmp_path, text, "90a")
    assert report.spilled == 0
    assert not report.remarks


def in_f16(params: Any) -> Any:
    """The same with the other format of 16 bits."""
    if isinstance(params, dict):
        return {key: in_f16(value) for key, value in params.items()}
    if isinstance(params, list):
        return [in_f16(value) for value in params]
    return "f16" if params == "bf16" else params


@needs_nvcc
@pytest.mark.parametrize("case", SM90)
def test_hopper_compiles_without_spills(case: str, tmp_path: Path) -> None:
    report = compile_kernel(tmp_path, emit(*parameters(case)), "90a")
    assert report.registers == 168, "65536 registers for 384 threads: what setmaxnreg redistributes"
    assert report.spilled == 0
    assert not report.remarks


@needs_nvcc
@pytest.mark.parametrize("case", SM80)
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_floor_compiles_without_spills(case: str, arch: str, tmp_path: Path) -> None:
    report = compile_kernel(tmp_path, emit(*parameters(case)), arch)
    assert report.spilled == 0
    assert not report.remarks
