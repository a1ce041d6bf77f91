"""What a template's header promises is what it emits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.templates.kernel_library import CC, ROOT, TARGETS, render
from tests.templates.test_matmul import FUSED

SAMPLES: dict[str, dict[str, Any]] = {
    "adamw": {
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "eps_hat": False,
        "dtype": "f32",
        "copy": "bf16",
        "stochastic": True,
    },
    "attention": {"dtype": "bf16", "causal": True, "scale": 0.125, "MR": 8},
    "attention_amx": {"causal": True, "scale": 0.125},
    "attention_grad": {"dtype": "bf16", "causal": False, "scale": 0.125, "MR": 8},
    "attention_grad_amx": {"causal": False, "scale": 0.125},
    "attention_cached": {"dtype": "bf16", "cache_dtype": "bf16", "scale": 0.125},
    "cache_append": {"dtype": "f32", "cache_dtype": "bf16"},
    "embedding": {"ctype": "float"},
    "gemv": {"rows": 3, "PARTS": 2, "a_dtype": "f32", "b_dtype": "i8", "pairs": False, **FUSED},
    "matmul_amx": {"trans_a": True, "trans_b": True, **FUSED},
    "matmul": {"dtype": "f32", "trans_a": True, "trans_b": True, "MR": 8, "NR": 48, **FUSED},
    "scatter_add": {},
    "sum_squares": {},
    "own_share": {},
    "own_squares": {"divided": True},
    "reduce_scatter_begin": {},
}


def header(template: str) -> dict[str, str]:
    """The fields of a template's header comment, continuation lines joined."""
    text = (ROOT / "templates" / "c" / f"{template}.c.j2").read_text()
    comment = re.match(r"\{#\n(.*?)#\}", text, re.DOTALL)
    assert comment, "a template begins with its contract"
    return dict(re.findall(r"^  (\w+): +(.*(?:\n {5,}.*)*)", comment[1], re.MULTILINE))


@pytest.mark.parametrize("template", SAMPLES)
def test_header_matches_emitted_function(template: str) -> None:
    params = SAMPLES[template]
    fields = header(template)
    assert fields["kernel"].split()[0] == template
    assert set(re.split(r",\s+", fields["params"])) == {"name", "header", *params}
    text = render(template, name="emitted", **params)
    signature = re.search(r"^void emitted\((.*?)^\{", text, re.DOTALL | re.MULTILINE)
    assert signature, text
    names = re.findall(r"(\w+)(?=[,)]|$)", re.sub(r"//.*", "", signature[1]).replace("\n", " "))
    expected = re.split(r",\s+", fields["args"].replace("[", "").replace("]", ""))
    for group, members in (
        ("inputs...", [x["name"] for x in params.get("inputs", [])]),
        ("results...", [x["name"] for x in params.get("results", [])]),
    ):
        if group in expected:
            at = expected.index(group)
            expected[at : at + 1] = members
    assert names == expected


@pytest.mark.parametrize("template", SAMPLES)
def test_emitted_text_is_tidy(template: str) -> None:
    text = render(template, name="emitted", **SAMPLES[template])
    assert text.endswith("}\n")
    assert "\n\n\n" not in text
    lines = text.splitlines()
    assert not [line for line in lines if line != line.rstrip() or "\t" in line]
    assert not [line for line in lines if len(line) > 120]


OF_AMX = ("epilogues", "batches", "97-101-103", "9-13-6179", "together", "130-40", "257-32", "7-5")
"""Sums of more than one run, packed together or not, and what fills neither tiles nor steps."""


def sanitizers() -> dict[str, str]:
    """The variables under which the kernels are compiled with the sanitizers, and the interpreter bears them."""
    names = [f"-print-file-name=lib{name}.so" for name in ("asan", "ubsan")]
    found = [subprocess.run([CC, name], capture_output=True, text=True, check=True).stdout.strip() for name in names]
    return {
        "GPTC_TEST_CFLAGS": "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all",
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
    }


@pytest.fixture(scope="module")
def suites() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The numeric tests of this folder, for the widest vectors and some for AMX, in two processes at once."""
    variables = {"clang": {"CC": "clang"}, "sanitizers": sanitizers()}
    if shutil.which("clang") is None:
        del variables["clang"]
    if not all(Path(runtime).is_absolute() for runtime in variables["sanitizers"]["LD_PRELOAD"].split()):
        del variables["sanitizers"]
    folder = Path(__file__).parent
    files = [str(path) for path in sorted(folder.glob("test_*.py")) if path != Path(__file__)]
    chosen = f"{next(iter(TARGETS))} or (amx and ({' or '.join(OF_AMX)}))"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *files]
    out = subprocess.PIPE
    started = {
        name: subprocess.Popen(command, env=os.environ | v, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True)
        for name, v in variables.items()
    }
    yield started
    for process in started.values():
        with process:
            process.kill()


@pytest.mark.parametrize("name", ["clang", "sanitizers"])
def test_others_agree(suites: dict[str, subprocess.Popen[str]], name: str) -> None:
    if name not in suites:
        pytest.skip(f"{name}: not installed")
    said, _ = suites[name].communicate()
    assert suites[name].returncode == 0, said
