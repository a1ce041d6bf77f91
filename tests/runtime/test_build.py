"""Compiling: right, once, in parallel, and with one clear error when it cannot be done."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest

from gptc.errors import InternalError, StorageError, ToolMissing
from gptc.runtime import build as build_module
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.build import build
from gptc.runtime.cache import Cache
from tests.runtime.toy import write_toy

UNITS = 6


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def counting_compiler(folder: Path, extra: str = "") -> tuple[str, Path]:
    """A compiler that notes each start in a log, then does `extra`, then is cc."""
    folder.mkdir(exist_ok=True)
    log, script = folder / "log", folder / "mycc"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{extra}\nexec cc "$@"\n')
    script.chmod(0o755)
    return str(script), log


def starts(log: Path) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return lines


def edit(artefact: Artefact, name: str, text: str) -> Artefact:
    """Change one file, and its hash with it."""
    (artefact.folder / name).write_text(text)
    path = artefact.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))
    return open_artefact(artefact.folder)


def with_flags(artefact: Artefact, flags: list[str]) -> Artefact:
    path = artefact.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["build"]["flags"] = flags
    path.write_text(json.dumps(manifest))
    return open_artefact(artefact.folder)


@pytest.fixture
def own(tmp_path: Path) -> Artefact:
    return open_artefact(write_toy(tmp_path / "artefact"))


def test_second_build_starts_no_compiler(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    cc, log = counting_compiler(tmp_path / "bin")
    progress: list[tuple[int, int]] = []
    first = build(own, cc, cache, lambda done, total: progress.append((done, total)))
    assert first.compiled == UNITS
    assert progress == [(n, UNITS) for n in range(1, UNITS + 1)]
    assert len(starts(log)) == UNITS + 2  # --version and the link
    began = time.process_time()
    second = build(own, cc, Cache(cache.root))
    assert time.process_time() - began < 0.3
    assert (second.library, second.compiled) == (first.library, 0)
    assert starts(log) == []
    emitted = ["include", "kernels", "manifest.json", "plan.json", "programs"]
    assert sorted(path.name for path in own.folder.iterdir()) == emitted


def test_only_what_changed_is_compiled(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    cc, log = counting_compiler(tmp_path / "bin")
    build(own, cc, cache)
    starts(log)
    loss = (own.folder / "kernels/loss.c").read_text()
    changed = edit(own, "kernels/loss.c", loss + "/* */\n")
    assert build(changed, cc, cache).compiled == 1
    assert [line.split()[-3] for line in starts(log)][:1] == ["kernels/loss.c"]
    header = (own.folder / "include/kernels.h").read_text()
    changed = edit(own, "include/kernels.h", header + "\n")
    assert build(changed, cc, cache).compiled == UNITS - 2  # all but hook.c and host.c; some only through gradient.h
    changed = edit(own, "include/kernels.h", header)
    changed = edit(changed, "kernels/loss.c", loss)
    starts(log)
    assert build(changed, cc, cache).compiled == 0
    assert starts(log) == []


def test_what_a_source_says_of_its_use_does_not_matter(own: Artefact, cache: Cache) -> None:
    """Debug information has line numbers, so there it does."""
    loss = (own.folder / "kernels/loss.c").read_text()
    for flags, again in ((["-fopenmp", "-Iinclude"], 0), (["-fopenmp", "-Iinclude", "-g"], 1)):
        flagged = with_flags(own, flags)
        build(flagged, None, cache)
        changed = edit(flagged, "kernels/loss.c", "// loss: 2 calls\n//   models/toy.yaml:3\n" + loss)
        assert build(changed, None, cache).compiled == again
        assert build(edit(changed, "kernels/loss.c", loss + "// the end\n"), None, cache).compiled == 1
        edit(changed, "kernels/loss.c", loss)


def test_where_and_when_do_not_matter(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    first = build(own, None, cache)
    twin = open_artefact(write_toy(tmp_path / "elsewhere"))
    os.utime(twin.folder / "kernels/loss.c", (1, 1))
    assert build(twin, None, cache) == build_module.Built(first.library, 0)


def test_compiler_flags_and_environment_matter(
    own: Artefact, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cc, _ = counting_compiler(tmp_path / "bin")
    libraries = [build(own, cc, cache).library]
    counting_compiler(tmp_path / "bin", "true # another binary at the same path")
    libraries.append(build(own, cc, cache).library)
    monkeypatch.setenv("CPATH", str(tmp_path))
    libraries.append(build(own, cc, cache).library)
    native = with_flags(own, [*own.manifest.build.flags, "-march=native"])
    libraries.append(build(native, cc, cache).library)
    monkeypatch.setattr(build_module, "host_cpu", lambda: "another machine")
    libraries.append(build(native, cc, cache).library)
    assert len(set(libraries)) == 5


def test_the_choice_of_compiler(own: Artefact, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cc, log = counting_compiler(tmp_path / "bin")
    monkeypatch.setenv("CC", f"{cc} -pipe")
    build(own, None, cache)
    assert all("-pipe" in line for line in starts(log))
    build(own, "cc", cache)
    assert starts(log) == []


@pytest.mark.parametrize("command", ["no-such-compiler", "", "'", "/dev/null"])
def test_no_compiler(own: Artefact, cache: Cache, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolMissing, match=r"(?s)was not found.*help: install gcc or clang"):
        build(own, command, cache)


def test_a_compiler_that_does_not_run(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ToolMissing, match="cannot run"):
        build(own, str(script), cache)
    with pytest.raises(ToolMissing, match="--version failed with status 1"):
        build(own, "false", cache)


def test_a_unit_that_does_not_compile(own: Artefact, cache: Cache) -> None:
    broken = edit(own, "kernels/loss.c", "int f(void) { return nonsense; }\n")
    broken = edit(broken, "kernels/probs.c", "int f(void) { return rubbish; }\n")
    with pytest.raises(InternalError, match=r"kernels/loss\.c does not compile") as caught:
        build(broken, None, cache)
    assert "kernels/loss.c:1:" in str(caught.value)
    assert "nonsense" in str(caught.value)
    assert caught.value.code == 70
    assert not list((cache.root / "tmp").iterdir())


def test_a_library_that_does_not_link(own: Artefact, cache: Cache) -> None:
    broken = edit(own, "programs/hook.c", (own.folder / "programs/hook.c").read_text() * 2 + "int loss;\n")
    with pytest.raises(InternalError, match=r"libmodel\.so does not link"):
        build(broken, None, cache)


def test_a_full_disk_is_no_bug(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    fail = 'case "$*" in *-c*) echo "fatal: No space left on device" >&2; exit 1;; esac'
    cc, _ = counting_compiler(tmp_path / "bin", fail)
    with pytest.raises(StorageError, match="disk is full"):
        build(own, cc, cache)


def test_a_compiler_without_openmp(own: Artefact, cache: Cache, tmp_path: Path) -> None:
    fail = 'case "$*" in *-shared*) echo "ld: cannot find -lomp: No such file" >&2; exit 1;; esac'
    cc, _ = counting_compiler(tmp_path / "bin", fail)
    with pytest.raises(ToolMissing, match="has no OpenMP"):
        build(own, cc, cache)


def test_artefact_folder_may_be_read_only(own: Artefact, cache: Cache) -> None:
    folders = [own.folder, *(path for path in own.folder.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert build(own, None, cache).compiled == UNITS
    finally:
        for folder in folders:
            folder.chmod(0o700)
