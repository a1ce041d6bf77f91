"""What the README says is true: its op works, its commands exist, and so does every file that a page of docs names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptc.model import load_description
from gptc.model.functions import FUNCTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "templates/README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "bench/results").glob("*.md"))]  # fmt: skip
COMMANDS = sorted({line.split("#")[0].split()[1] for kind, text in BLOCKS if kind == "sh"
                   for line in text.splitlines() if line.startswith("gptc ")})  # fmt: skip

USE = """
from gptc.ir.ops.elementwise import *
from gptc.ir.build import Builder
from tests.ir.samples import f32
from gptc.ir.interp import interpret
import numpy as np
{op}
from gptc.model.functions import FUNCTIONS
assert "squared_relu" in FUNCTIONS
b = Builder("readme")
x, dy = (b.input(key=k, shape=(3, 5)) for k in ("x", "dy"))
y = b.squared_relu(x)
(dx,) = SquaredRelu().vjp(b, (x,), (y,), (dy,))
b.output("y", y)
b.output("dx", dx)
feeds = {{"x": np.linspace(-2, 2, 15).reshape(3, 5), "dy": np.ones((3, 5))}}
up, down = ({{**feeds, "x": feeds["x"] + h}} for h in (1e-5, -1e-5))
slope = (interpret(b.build(), up, wide=True)["y"] - interpret(b.build(), down, wide=True)["y"]) / 2e-5
assert np.allclose(interpret(b.build(), feeds, wide=True)["dx"], slope, atol=1e-5)
"""


def test_the_op_of_the_readme_works() -> None:
    (op,) = [text for kind, text in BLOCKS if kind == "python"]
    subprocess.run([sys.executable, "-c", USE.format(op=op)], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_exist(command: str) -> None:
    subprocess.run([sys.executable, "-m", "gptc", command, "--help"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)]
    named = [ROOT / path for path in re.findall(r"`((?:gptc|tests|templates|models|bench|docs)/[\w/-]+\.\w+)`", text)]
    assert not [str(path) for path in (*links, *named) if not path.exists()]


def test_the_readme_lists_every_page() -> None:
    assert all(f"docs/{page.name}" in README for page in (ROOT / "docs").glob("*.md"))


def test_the_page_about_models_is_true(tmp_path: Path) -> None:
    page = (ROOT / "docs/model.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    load_description(tmp_path / "example.yaml")
    for name, function in sorted(FUNCTIONS.items()):
        meaning = (function.build.__doc__ or "").strip().splitlines()[0].rstrip(".")
        assert f"| `{function.usage}` | {meaning} |" in page, name


def test_the_model_of_the_readme_is_the_one_shipped() -> None:
    shown = next(text for kind, text in BLOCKS if kind == "yaml").split("\n", 1)[1]
    assert shown in (ROOT / "models/gpt2-124m.yaml").read_text()
