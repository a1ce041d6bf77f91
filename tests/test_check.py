"""`gptc diff` on sound artefacts, and on artefacts with planted faults: each is found, and named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gptc.check import check_artefact
from gptc.compiler import Compiled, build_model
from gptc.errors import NumericsError
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.build import build
from gptc.runtime.cache import Cache


@pytest.mark.parametrize("which", ["tiny", "accumulating", "inferring"])
def test_a_sound_artefact_agrees(which: str, cache: Cache, request: pytest.FixtureRequest) -> None:
    compiled: Compiled = request.getfixturevalue(which)
    seen: list[tuple[str, int, int]] = []
    library = build_model(compiled, cache).library
    agreement = check_artefact(compiled.artefact, library, 2, lambda *progress: seen.append(progress))
    calls = {p.name: p.calls for p in compiled.artefact.manifest.programs}
    assert sorted(agreement.programs) == sorted(calls)
    assert agreement.calls == len(seen) >= sum(calls.values())
    assert 0 < agreement.worst <= 1
    assert seen[-1][1] == seen[-1][2]


def edited(compiled: Compiled, tmp_path: Path, edits: dict[str, Callable[[str], str]]) -> Artefact:
    """A copy of an artefact with some files changed, and a manifest that says so."""
    folder = shutil.copytree(compiled.artefact.folder, tmp_path / "edited")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, edit in edits.items():
        before = (folder / name).read_text()
        after = edit(before)
        assert after != before, f"the fault does not fit {name}"
        (folder / name).write_text(after)
        manifest["files"][name] = hashlib.sha256(after.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_artefact(folder)


def complaint(artefact: Artefact, cache: Cache) -> str:
    with pytest.raises(NumericsError) as caught:
        check_artefact(artefact, build(artefact, cache=cache).library)
    assert caught.value.code == 4
    return str(caught.value)


def kernel(compiled: Compiled, stem: str) -> str:
    (path,) = sorted((compiled.artefact.folder / "kernels").glob(f"{stem}_??????.c"))
    return f"kernels/{path.name}"


def test_a_wrong_epsilon_is_found(tiny: Compiled, cache: Cache, tmp_path: Path) -> None:
    name = next(f"kernels/{p.name}" for p in sorted((tiny.artefact.folder / "kernels").glob("row_*layer_norm_*.c"))
                if "1e-5f" in p.read_text())  # fmt: skip
    artefact = edited(tiny, tmp_path, {name: lambda text: text.replace("1e-5f", "2e-5f")})
    message = complaint(artefact, cache)
    assert re.search(
        r"tiny\.yaml:\d+:\d+: error: %h\.\d\.\S+ is not what the interpreter computes: call \d+ of", message
    )
    assert re.search(
        r"at \[0, 0, \d+\]: the artefact has \S+, the interpreter \S+: [\d,]+ ulps, [\d,]+ allowed", message
    )
    assert re.search(r"[\d,]+ of [\d,]+ elements are wrong", message)


def test_a_wrong_update_is_found(tiny: Compiled, cache: Cache, tmp_path: Path) -> None:
    name = kernel(tiny, "adamw_decay")
    artefact = edited(tiny, tmp_path, {name: lambda text: text.replace("p[i] - (", "p[i] - 1.001f * (")})
    assert re.search(r"error: %\S+ is not what .*: call \d+ of step, adamw in update", complaint(artefact, cache))


def test_a_wrong_offset_is_found(tiny: Compiled, cache: Cache, tmp_path: Path) -> None:
    """The program stores one tensor where the plan has another."""
    artefact = edited(
        tiny, tmp_path, {"programs/evaluate.c": lambda text: re.sub(r"    h_1_a = \d+,", "    h_1_a = 0,", text)}
    )
    assert "evaluate" in complaint(artefact, cache)


def test_a_plan_that_overlaps_is_found(tiny: Compiled, cache: Cache, tmp_path: Path) -> None:
    """A tensor that is still needed shares its bytes with one that is computed meanwhile."""
    plan = json.loads((tiny.artefact.folder / "plan.json").read_text())["programs"][0]
    values = {v["name"]: v for v in plan["values"]}
    kept, thief = values["h.0.a"], next(
        v for v in plan["values"]
        if v["segment"] == "arena" and v["bytes"] == values["h.0.a"]["bytes"] and v["name"] != "h.0.a"
        and values["h.0.a"]["first"] + 1 < v["first"] < values["h.0.a"]["last"]
    )  # fmt: skip

    def move(text: str) -> str:
        start = text.index(f"graph {plan['name']} at")
        end = text.find("\ngraph ", start + 1)
        program, rest = (text[start:end], text[end:]) if end > 0 else (text[start:], "")
        moved = program.replace(f"place %{thief['name']} in arena+{thief['offset']}\n",
                                f"place %{thief['name']} in arena+{kept['offset']}\n")  # fmt: skip
        return text[:start] + moved + rest

    identifier = thief["name"].replace(".", "_")
    artefact = edited(tiny, tmp_path, {
        "graph.gir": move,
        "programs/step.c": lambda text: re.sub(
            rf"^    {identifier} = \d+,", f"    {identifier} = {kept['offset']},", text, flags=re.MULTILINE
        ),
    })  # fmt: skip
    message = complaint(artefact, cache)
    assert "is not any more what it was when it was computed" in message
    assert "another call has written into its memory" in message
