"""Renders CUDA templates and compiles them, which needs nvcc but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gptc.codegen.render import contract, cuda_headers, render

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


@dataclass(frozen=True)
class Report:
    """What ptxas says about the kernels of a file: the most registers, all that is spilled."""

    registers: int
    spilled: int
    """Bytes of stores and loads."""
    remarks: tuple[str, ...]
    """Warnings, among them those on ignored register requests and serialised tensor-core instructions."""


def emit(template: str, params: Mapping[str, Any]) -> str:
    """The text of `templates/cuda/<template>.cu.j2` as a kernel called `emitted`."""
    return render(f"cuda/{template}.cu", name="emitted", header=["made by a test"], **params)


def compile_kernel(folder: Path, text: str, arch: str) -> Report:
    """Compile `text` for `arch`, such as `80` or `90a`, to a cubin in `folder`."""
    (folder / "include").mkdir(exist_ok=True)
    for path, header in cuda_headers().items():
        (folder / path).write_text(header)
    source = folder / f"emitted_{arch}.cu"
    source.write_text(text)
    assert NVCC
    target = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-cubin", "-o", str(source.with_suffix(".cubin"))]
    command = [NVCC, "-O3", "-std=c++17", "-Werror=all-warnings", "-Xptxas=-v", "-Iinclude", *target, str(source)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    registers = re.findall(r"Used (\d+) registers", done.stderr)
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    assert registers, done.stderr
    assert spilled, done.stderr
    remarks = tuple(line for line in done.stderr.splitlines() if re.search(r"warning|C75\d\d", line))
    return Report(max(map(int, registers)), sum(map(int, spilled)), remarks)


def argument_names(text: str) -> list[str]:
    """The arguments of the launcher `emitted`, in order."""
    signature = re.search(r"void emitted\((.*?)^\{", text, re.DOTALL | re.MULTILINE)
    assert signature, text
    return re.findall(r"(\w+)(?=[,)]|$)", re.sub(r"//.*", "", signature[1]).replace("\n", " "))


def declared_arguments(template: str, params: Mapping[str, Any]) -> list[str]:
    """The arguments that the template's contract declares, its groups filled in from `params`."""
    names: list[str] = []
    for name in contract(f"cuda/{template}.cu").args:
        group = params.get(name.removesuffix("..."))
        if name == "[scratch]":
            names += ["scratch"] if params["split"] else []
        else:
            names += [x["name"] for x in group] if isinstance(group, list) else [name]
    return names


def untidy(text: str) -> list[str]:
    """Lines that an emitted file must not have."""
    return [line for line in text.splitlines() if line != line.rstrip() or "\t" in line or len(line) > 120]
