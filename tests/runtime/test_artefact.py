"""An artefact is either exactly what was emitted, or refused with one message that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.manifest import parse_manifest
from tests.runtime.toy import write_toy


def test_contents(toy: Artefact) -> None:
    assert toy.tensor("bias").offset == 4 * 256 * 320
    assert toy.tensor("loss").nbytes == 4
    assert toy.program("step").outputs == ("loss", "norm", "clip_scale")
    assert toy.has_program("evaluate")
    assert not toy.has_program("logits")


def test_unknown_names_suggest_known_ones(toy: Artefact) -> None:
    with pytest.raises(InputError, match="did you mean 'tokens'"):
        toy.tensor("token")
    with pytest.raises(InputError, match="it has: evaluate, step"):
        toy.program("logits")


def test_not_an_artefact(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", Path("/dev/null"), Path("a\0b")):
        with pytest.raises((InputError, StorageError)):
            open_artefact(folder)


def test_damaged_files(tmp_path: Path) -> None:
    write_toy(tmp_path)
    unit = tmp_path / "kernels/loss.c"
    text = unit.read_text()
    unit.write_text(text + " ")
    with pytest.raises(StorageError, match=r"kernels/loss\.c: changed since it was emitted"):
        open_artefact(tmp_path)
    unit.unlink()
    with pytest.raises(StorageError, match=r"kernels/loss\.c: cannot read: No such file"):
        open_artefact(tmp_path)
    (tmp_path / "elsewhere.c").write_text(text)
    unit.symlink_to(tmp_path / "elsewhere.c")
    with pytest.raises(StorageError, match="a link, where a file was emitted"):
        open_artefact(tmp_path)


def test_opens_through_a_linked_folder(tmp_path: Path) -> None:
    write_toy(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert open_artefact(tmp_path / "link").folder == tmp_path / "real"


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(format=2), "format 2 of gptc 0.1.0; this one reads 1"),
        (lambda m: m["params"][0].update(offset=32), "table at byte 32 is not aligned to 64"),
        (lambda m: m["params"][0].update(offset=-64), r"params\.0\.offset: .* greater than or equal to 0"),
        (lambda m: m["params"][1].update(offset=0), "tensors .* overlap in segment params"),
        (lambda m: m["params"][1].update(shape=[999], valid=[999]), "bias ends at byte .* of segment params"),
        (lambda m: m["params"][0].update(shape=[1 << 39, 1 << 39]), "table ends at byte"),
        (lambda m: m["params"][0].update(shape=[256.0, 320]), r"params\.0\.shape\.0: .*integer"),
        (lambda m: m["params"][0].update(valid=[257, 256]), r"valid region \[257, 256\] does not fit"),
        (lambda m: m["params"][0].update(valid=[256]), "does not fit shape"),
        (lambda m: m["params"][0].update(dtype="f31"), r"params\.0\.dtype"),
        (lambda m: m["params"][0].update(segment="stack"), r"params\.0\.segment"),
        (lambda m: m["params"][0].update(init={"kind": "orthogonal"}), r"params\.0\.init: .*orthogonal"),
        (lambda m: m["params"][0].update(init={"kind": "normal", "std": float("nan")}), "finite"),
        (lambda m: m["params"][0].update(name="bias"), "tensor bias appears twice"),
        (lambda m: m["params"][0].pop("name"), r"params\.0\.name: Field required"),
        (lambda m: m["segments"].pop("arena"), "segments must have arena"),
        (lambda m: m["segments"].update(io=8), "of segment io, which has 8"),
        (lambda m: m["dims"].pop("T"), "dims must have T"),
        (lambda m: m["programs"][0].update(inputs=["speed"]), "program evaluate uses speed, which is not in io"),
        (lambda m: m["programs"][0].update(function="system"), r"programs\.0\.function"),
        (lambda m: m["programs"].clear(), "programs"),
        (lambda m: m["files"].update({"../../etc/passwd": "0" * 64}), "files"),
        (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "files"),
        (lambda m: m["build"]["units"].append("kernels/more.c"), "unit kernels/more.c has no hash"),
        (lambda m: m["build"]["units"].append("-fplugin=x.so"), "build.units"),
        (lambda m: m["build"].update(library="../libmodel.so"), "build.library"),
    ],
)
def test_wrong_manifests(tmp_path: Path, edit: Edit, message: str) -> None:
    write_toy(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises((InputError, StorageError), match=message) as caught:
        open_artefact(tmp_path)
    assert str(path) in str(caught.value)
    assert "help: " in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b"\0" * 10])
def test_texts_that_are_no_manifest(text: bytes) -> None:
    with pytest.raises(StorageError, match=r"^error: here/manifest\.json: "):
        parse_manifest(text, Path("here/manifest.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    (write_toy(tmp_path) / "manifest.json").chmod(0)
    with pytest.raises(StorageError, match="Permission denied"):
        open_artefact(tmp_path)
