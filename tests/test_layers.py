"""The house keeps its shape: imports go down the layers, files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {
    "contracts": 0, "errors": 0, "options": 0, "quantisation": 0, "rates": 0, "resources": 0, "shares": 0, "ir": 1,
    "model": 2, "passes": 2, "codegen": 3, "runtime": 4, "accumulation": 5, "bounds": 5, "budget": 5, "check": 5,
    "compiler": 5, "corpus": 5, "memo": 5, "report": 5, "request": 5, "running_error": 5, "tune": 5, "cli": 5,
    "__main__": 5, "__init__": 5,
}  # fmt: skip
ONLY_IN = {
    "networkx": ("gptc/passes/",),
    "jinja2": ("gptc/codegen/", "gptc/report/page.py"),
    "ruamel": ("gptc/model/",),
    "pydantic": (
        "gptc/model/",
        "gptc/runtime/manifest.py",
        "gptc/runtime/dataset.py",
        "gptc/runtime/checkpoint.py",
        "gptc/runtime/tuning.py",
        "gptc/runtime/log.py",
    ),
    "typer": ("gptc/cli/",),
    "rich": ("gptc/cli/",),
    "tensorboardX": ("gptc/cli/tensorboard.py",),
    "pycuda": ("gptc/runtime/device.py",),
    "cuda": ("gptc/runtime/device.py", "gptc/resources.py"),
    "mpi4py": ("gptc/runtime/dist.py", "gptc/runtime/mpi.py"),
    "nccl": ("gptc/runtime/nccl.py",),
}
SOURCES = sorted((ROOT / "gptc").rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts[1]
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "gptc" and len(parts) > 1 and parts[1] in LAYERS:
            reach = 0 if own == "runtime" else 5 if LAYERS[own] == 5 else LAYERS[own] - 1
            assert parts[1] == own or LAYERS[parts[1]] <= reach, f"{own} may not import {name}"
        allowed = ONLY_IN.get(parts[0])
        if allowed:
            assert str(path.relative_to(ROOT)).startswith(allowed), f"{parts[0]} belongs in {' or '.join(allowed)}"


def imported(name: str) -> Path | None:
    """The file that has a dotted name, or whose name is the beginning of it."""
    parts = name.split(".")
    while parts and parts[0] == "gptc":
        path = ROOT.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file in SOURCES:
                return file
        parts.pop()
    return None


def test_files_import_each_other_in_no_circle() -> None:
    """Not even for annotations; but an op's gradient is built of ops, so that `ir` knows ops, graphs and builders at
    once."""
    edges = [
        (path, file) for path in SOURCES for name in imports(ast.parse(path.read_text())) if (file := imported(name))
    ]
    circles = [c for c in nx.strongly_connected_components(nx.DiGraph(edges)) if len(c) > 1]
    assert len(circles) == 1
    assert {path.parent.relative_to(ROOT) for path in circles[0]} <= {Path("gptc/ir"), Path("gptc/ir/ops")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def test_half_the_files_are_short() -> None:
    lengths = sorted(len(p.read_text().splitlines()) for p in SOURCES)
    assert lengths[len(lengths) // 2] < 200


def test_no_grab_bags() -> None:
    assert not [p for p in SOURCES if p.stem in ("utils", "helpers", "common", "misc")]
