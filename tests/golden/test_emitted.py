"""The look of emitted files: some of them whole, all of them by their white space.

`pytest tests/golden --update-golden` writes what is emitted now over the files in `tests/golden/tiny`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptc.codegen.target import describe
from gptc.compiler import compile_model
from gptc.errors import InputError
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cache import Cache
from tests.system.workshop import TINY

GOLDEN = Path(__file__).parent / "tiny"
KEPT = (
    "adamw_decay",
    "attention_causal",
    "column_sub_mul_reduce_sum",
    "gemm_nt_add_gelu",
    "row_layer_norm",
    "scatter_add",
)
"""Kernels that are kept whole: one of each template that a reader meets first."""
MARCH = "x86-64-v3"
"""Emitted text depends on the width of vectors, so the golden files have one of their own."""
WIDTH = 120
MODELS = (TINY, models_dir() / "gpt2-nano.yaml", models_dir() / "gpt2-124m.yaml")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    try:
        describe("cc", MARCH)
    except InputError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("golden")
    options = Options(march=MARCH)
    requests = {path.stem: Request(path, options, (), 2, 16) for path in MODELS}
    requests["tiny-micro"] = Request(TINY, options, (), 2, 16, 2)
    requests["tiny-infer"] = Request(TINY, Options(march=MARCH, mode="infer"), (), 1, 16)
    requests["tiny-primitive"] = Request(TINY, Options(march=MARCH, fuse=False, recognise=False), (), 1, 16)
    cache = Cache(root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[2])  # emitted comments name model files as seen from here
        return {name: compile_model(each, root / "build", cache).artefact.folder for name, each in requests.items()}


@pytest.mark.parametrize("name", [*(f"kernels/{stem}.c" for stem in KEPT), "programs/step.c"])
def test_golden_files(folders: dict[str, Path], name: str, request: pytest.FixtureRequest) -> None:
    golden, text = GOLDEN / Path(name).name, emitted(folders["tiny"], name)
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text(), f"{golden} differs: if that is meant, run pytest with --update-golden"


def emitted(folder: Path, name: str) -> str:
    """The file of that name, where `kernels/x.c` is the first of the kernels called x, whatever their hashes."""
    stem = Path(name).stem
    found = [p for p in sorted(folder.glob("kernels/*.c")) if re.fullmatch(rf"{stem}_[0-9a-f]{{6}}", p.stem)]
    return (found[0] if name.startswith("kernels/") else folder / name).read_text()


@pytest.mark.parametrize("name", [*(path.stem for path in MODELS), "tiny-micro", "tiny-infer", "tiny-primitive"])
def test_white_space(folders: dict[str, Path], name: str) -> None:
    """No blanks at the end of a line, one blank line at most, one newline at the end; code fits the width."""
    wrong = []
    for path in sorted(p for p in folders[name].rglob("*") if p.is_file()):
        text, short = path.read_text(), path.relative_to(folders[name]).as_posix()
        wrong += [
            f"{short}:{i}: blanks at its end" for i, line in enumerate(text.split("\n"), 1) if line != line.rstrip()
        ]
        if "\n\n\n" in text or not text.endswith("\n") or text.endswith("\n\n") or text.startswith("\n"):
            wrong.append(f"{short}: blank lines")
        if path.suffix in (".c", ".h"):
            wrong += [
                f"{short}:{i}: {len(line)} columns" for i, line in enumerate(text.split("\n"), 1) if len(line) > WIDTH
            ]
            wrong += [f"{short}:{i}: a tab" for i, line in enumerate(text.split("\n"), 1) if "\t" in line]
    assert wrong == []
