"""What is emitted: the same bytes every time, C that compilers like, a plan that adds up, whole folders or none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gptc.codegen.artefact import Emitted
from gptc.codegen.program import Identifiers, enumerators, wrap
from gptc.codegen.write import write_artefact
from gptc.compiler import Compiled, build_model, compile_model
from gptc.errors import StorageError
from gptc.ir.ops.shape import View
from gptc.ir.text import parse_graphs
from gptc.request import Request
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.init import initialise
from tests.conftest import TINY, WARNINGS

ROOT = Path(__file__).parents[2]
COMPILERS = [cc for cc in ("gcc", "clang") if shutil.which(cc)]


def plan(compiled: Compiled) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((compiled.artefact.folder / "plan.json").read_text())
    return found


@pytest.mark.parametrize("cc", COMPILERS)
def test_compiles_without_a_warning(
    cc: str, tiny: Compiled, accumulating: Compiled, inferring: Compiled, tmp_path: Path
) -> None:
    """What `make` leaves, and what `make clean` does.  Kernels that artefacts share are compiled once."""
    objects: dict[str, Path] = {}
    for compiled in (tiny, accumulating, inferring):
        folder = shutil.copytree(compiled.artefact.folder, tmp_path / compiled.artefact.folder.name)
        for path in (p.with_suffix(".o") for p in folder.glob("kernels/*.c") if p.name in objects):
            shutil.copyfile(objects[path.with_suffix(".c").name], path)
        flags = " ".join([*compiled.artefact.manifest.build.flags, *WARNINGS]).replace("-O3", "-O1")
        subprocess.run(["make", "-s", "-j2", f"CC={cc}", f"CFLAGS={flags}"], cwd=folder, check=True)
        assert (folder / "libmodel.so").is_file()
        assert (folder / "train").is_file() == (compiled is not inferring)
        for path in folder.glob("kernels/*.o"):
            objects[path.with_suffix(".c").name] = path.rename(tmp_path / path.name)
        subprocess.run(["make", "-s", "clean"], cwd=folder, check=True)
        assert sorted(p.name for p in folder.rglob("*")) == sorted(p.name for p in compiled.artefact.folder.rglob("*"))


def test_emitted_text_keeps_the_laws_of_white_space(tiny: Compiled) -> None:
    for path in sorted(p for p in tiny.artefact.folder.rglob("*") if p.suffix in (".c", ".h")):
        text = path.read_text(encoding="ascii")
        assert re.search(r"[^\n]\n\Z", text), path.name
        assert not re.search(r"[ \t]$|\n\n\n|\t", text, re.MULTILINE), path.name
        if path.parent.name in ("programs", "include") or path.name == "train.c":
            assert max(map(len, text.splitlines())) <= 120, path.name


def test_nothing_tells_where_or_when_it_was_made(tiny: Compiled) -> None:
    for path in sorted(p for p in tiny.artefact.folder.rglob("*") if p.is_file()):
        text = path.read_text()
        for place in (ROOT, tiny.artefact.folder.parent):
            assert str(place) not in text, path.name


def test_programs_quote_the_model(tiny: Compiled) -> None:
    text = (tiny.artefact.folder / "programs" / "step.c").read_text()
    assert re.search(r"// \S*tiny\.yaml:20  a: layer_norm\(x, ln_1\.w, ln_1\.b\)\n", text)
    assert "// ---- h.0 ---" in text
    assert re.search(r"    h_0_a = \d+, +// f32\[B=2,T=12,C=32\], calls \d+ to \d+\n", text)


def test_calls_are_numbered_in_order(tiny: Compiled, library: Path) -> None:
    model = CpuModel(tiny.artefact, library)
    initialise(model)
    for program in tiny.artefact.manifest.programs:
        seen: list[int] = []
        model.on_call(seen.append)
        model.run(program.name)
        assert seen == list(range(program.calls))


def test_values_that_live_together_lie_apart(tiny: Compiled, accumulating: Compiled, inferring: Compiled) -> None:
    """Two values share bytes only while one of them is not needed; views lie inside their operands anyway."""
    for compiled in (tiny, accumulating, inferring):
        graphs = {g.name: g for g in parse_graphs((compiled.artefact.folder / "graph.gir").read_text())}
        for program in plan(compiled)["programs"]:
            views = {v.name for n in graphs[program["name"]].nodes if isinstance(n.op, View) for v in n.results}
            arena = [v for v in program["values"] if v["segment"] == "arena" and v["name"] not in views]
            for i, a in enumerate(arena):
                for b in arena[i + 1 :]:
                    apart = a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]
                    at_once = a["first"] < b["last"] and b["first"] < a["last"]
                    assert apart or not at_once, f"{a['name']} and {b['name']} of {program['name']}"


def test_segments_hold_their_tensors(tiny: Compiled) -> None:
    found = plan(tiny)
    for program in found["programs"]:
        for value in program["values"]:
            assert value["offset"] + value["bytes"] <= found["segments"][value["segment"]]
            assert value["offset"] % 4 == 0
        assert program["memory"]["lower_bound"] <= program["memory"]["arena"] <= program["memory"]["sum_of_tensors"]


def test_offsets_are_those_of_the_plan(tiny: Compiled) -> None:
    step = (tiny.artefact.folder / "programs" / "step.c").read_text()
    named = {name: int(offset) for name, offset in re.findall(r"^    (\w+) = (\d+),", step, re.MULTILINE)}
    values = {v["name"]: v for v in plan(tiny)["programs"][0]["values"]}
    assert plan(tiny)["programs"][0]["name"] == "step"
    for name in ("h.0.a", "h.1.m", "logits"):
        assert named[name.replace(".", "_")] == values[name]["offset"]


def test_a_second_compilation_finds_the_first(cache: Cache, out: Path, tiny: Compiled) -> None:
    again = compile_model(Request(TINY), out, cache)
    assert again.cached
    assert again.artefact.folder == tiny.artefact.folder
    assert build_model(again, cache).compiled == 0


def test_a_damaged_folder_is_compiled_again(cache: Cache, tmp_path: Path) -> None:
    first = compile_model(Request(TINY), tmp_path, cache)
    victim = first.artefact.folder / "programs" / "step.c"
    before = victim.read_bytes()
    victim.write_bytes(before + b"// edited\n")
    again = compile_model(Request(TINY), tmp_path, cache)
    assert not again.cached
    assert victim.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [first.artefact.folder.name]


CHANGES: list[dict[str, Any]] = [
    {"batch": 3},
    {"seq": 5},
    {"micro_steps": 2},
    {"overrides": ("train.clip=0.5",)},
    {"overrides": ("dims.L=1",)},
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_requests_are_other_artefacts(change: dict[str, Any], tiny: Compiled, cache: Cache, out: Path) -> None:
    assert compile_model(Request(TINY, **change), out, cache).artefact.folder != tiny.artefact.folder


# -- names and lines -------------------------------------------------------------------------------


def test_identifiers_are_different_and_legal() -> None:
    names = ["a.b", "a_b", "a-b", "a_b_2", "int", "m", "arena", "exp", "printf", "int64_t", "UINT8_MAX", "AFTER", "9",
             "é", "gptc_step", "GPTC_B", "linux", "_", "__x", "kernel_0", "x" * 300, "x" * 301]  # fmt: skip
    identifiers = Identifiers(["kernel_0", "exp"])
    found = [identifiers(name) for name in names]
    assert len(set(found)) == len(names)
    assert not {"int", "m", "arena", "int64_t", "UINT8_MAX", "AFTER", "GPTC_B", "kernel_0", "exp", "linux"} & set(found)
    assert all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in found)
    assert [identifiers(name) for name in names] == found


def test_wrap_breaks_only_between_items() -> None:
    items = [f"arena + value_{i}" for i in range(20)]
    lines = wrap("kernel(", items, ");", 60)
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(line.strip() for line in lines) == f"kernel({', '.join(items)});"
    assert wrap("f(", [], ");") == ["f();"]


def test_enumerators_line_up() -> None:
    assert enumerators([("a", 1, "x"), ("long", 22, "y")]) == ["a = 1,     // x", "long = 22, // y"]


# -- writing ---------------------------------------------------------------------------------------


def test_writing_again_touches_nothing(tmp_path: Path) -> None:
    emitted = Emitted("m-c-1", {"a.txt": "one\n", "include/b.txt": "two\n"})
    folder = write_artefact(emitted, tmp_path)
    (folder / "train").write_text("built by hand")
    before = (folder / "a.txt").stat().st_mtime_ns
    assert write_artefact(emitted, tmp_path) == folder
    assert (folder / "a.txt").stat().st_mtime_ns == before
    assert (folder / "train").is_file()


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_artefact(Emitted("m-c-1", {"a.txt": "one\n"}), tmp_path)
    real = Path.write_text

    def full(self: Path, *args: Any, **named: Any) -> int:
        if self.name == "b.txt":
            raise OSError(28, "No space left on device")
        return real(self, *args, **named)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=r"m-c-1: cannot write: No space left on device"):
        write_artefact(Emitted("m-c-1", {"a.txt": "other\n", "b.txt": "two\n"}), tmp_path)
    assert (folder / "a.txt").read_text() == "one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m-c-1"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_artefact(Emitted("m-c-1", {"a.txt": ""}), tmp_path / "build")
