"""What the compiler is asked, and what its refusals become."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gptc.codegen import target as targets
from gptc.codegen.instructions import choose
from gptc.codegen.render import render
from gptc.codegen.target import FLAGS, Target, describe, describe_cuda, target_for
from gptc.errors import InputError, ToolMissing
from gptc.options import Options
from tests.codegen.native import TARGET

ARM = "aarch64-linux-gnu-gcc"


def test_native() -> None:
    target = target_for(Options(compiler=TARGET.compiler))
    assert target is TARGET
    assert set(FLAGS) <= set(target.flags)
    assert "-march=native" in target.flags
    assert not any("fast-math" in flag for flag in target.flags)


@pytest.mark.parametrize(
    ("macros", "name"),
    [
        ({"__AVX512F__", "__AVX2__", "__SSE2__"}, "AVX-512"),
        ({"__AVX2__", "__SSE2__"}, "AVX2"),
        ({"__SSE2__"}, "SSE2"),
        ({"__ARM_NEON"}, "NEON"),
        ({"__riscv"}, None),
    ],
)
def test_the_best_instruction_set_is_chosen(macros: set[str], name: str | None) -> None:
    found = choose(macros)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("march", "name", "floats"),
    [("x86-64", "SSE2", 4), ("x86-64-v2", "SSE2", 4), ("sandybridge", "SSE2", 4), ("x86-64-v3", "AVX2", 8),
     ("haswell", "AVX2", 8), ("x86-64-v4", "AVX-512", 16), ("icelake-server", "AVX-512", 16)],
)  # fmt: skip
def test_instruction_sets(march: str, name: str, floats: int) -> None:
    target = describe_x86(march)
    assert (target.instructions.name, target.instructions.vector) == (name, floats)
    assert str(target) == f"{name} ({TARGET.compiler} -march={march}), vectors of {floats} floats"
    assert ("-mprefer-vector-width=512" in target.flags) == (floats == 16)
    assert ("avx2" in target.features) == (floats > 4)
    assert ("avx512bw" in target.features) == (floats == 16)


@pytest.mark.skipif(shutil.which(ARM) is None, reason=f"{ARM} is not installed")
def test_neon() -> None:
    target = describe(ARM, "armv8-a")
    assert (target.instructions.name, target.instructions.vector, target.features) == ("NEON", 4, ())


def describe_x86(march: str) -> Target:
    try:
        return describe(TARGET.compiler, march)
    except InputError:
        pytest.skip("no compiler for x86")


def test_vectors_wider_than_the_registers_do_not_compile(tmp_path: Path) -> None:
    """They would run sixty times slower, so the headers check what they are compiled for."""
    target = describe_x86("x86-64-v3")
    (tmp_path / "probe.c").write_text(render("c/probe.c", VEC=16, SUMS=16, bf16=False, amx=False))
    (tmp_path / "kernel.c").write_text(render("c/support.h", VEC=16))
    for name in ("probe.c", "kernel.c"):
        command = [target.compiler, *target.flags, "-c", name, "-o", os.devnull]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "compiled for narrower vectors than this was emitted for" in done.stderr


@pytest.mark.parametrize(("march", "bf16"), [("x86-64-v3", False), ("x86-64-v4", False), ("cooperlake", True)])
def test_bf16_needs_its_instruction(march: str, bf16: bool) -> None:
    describe_x86(march)
    options = Options(compiler=TARGET.compiler, march=march, precision="bf16")
    if bf16:
        assert target_for(options).bf16
    else:
        with pytest.raises(InputError, match="AVX512_BF16") as caught:
            target_for(options)
        assert caught.value.diagnostics[0].hint == "use --precision f32"


def test_unknown_instruction_set() -> None:
    """The error lists what there is, and has an idea of what was meant."""
    describe_x86("x86-64")
    for march, hint in (
        ("pentium-9", "for another architecture, name its compiler with --compiler"),
        ("haswel", "did you mean 'haswell'?"),
        ("armv8-a", "for another architecture, name its compiler with --compiler"),
    ):
        with pytest.raises(InputError, match=f"instruction set '{march}'") as caught:
            describe(TARGET.compiler, march)
        (told,) = caught.value.diagnostics
        assert told.hint == hint
        assert "x86-64-v4 (AVX-512), x86-64-v3 (AVX2), x86-64 (SSE2), native (this machine's)" in told.notes[0]
        assert {"haswell", "znver3", "sapphirerapids"} <= set(told.notes[1].split())


@pytest.mark.parametrize("compiler", ["no-such-compiler-here", "/", "", "cc 'unclosed", "false"])
def test_missing_compiler(compiler: str) -> None:
    with pytest.raises(ToolMissing, match="no working C compiler"):
        describe(compiler, "native")


@pytest.mark.parametrize("march", ["native -fplugin=/tmp/x.so", "native\n", "", "-o", "native;touch /tmp/pwned"])
def test_hostile_instruction_sets(march: str) -> None:
    """The name is one argument of the compiler, which does not know it."""
    with pytest.raises(InputError, match="knows no instruction set"):
        describe(TARGET.compiler, march)


@pytest.mark.parametrize(
    ("said", "knows", "arch", "note"),
    [("9.0\n9.0\n", True, "sm_90a", ""), ("8.6\n", True, "sm_86", ""), ("10.0\n", True, "sm_100", ""),
     (None, True, "sm_80", "no GPU here"), ("9.0", False, "sm_80", "too old for this GPU, sm_90a")],
)  # fmt: skip
def test_native_is_the_first_gpu(
    monkeypatch: pytest.MonkeyPatch, said: str | None, knows: bool, arch: str, note: str
) -> None:
    """Code for the floor runs anywhere, and why it serves is told."""

    def output(argv: list[str], stderr: bool = False) -> str | None:
        if argv[0] == "nvidia-smi":
            return said
        known = knows or "arch=compute_80" in " ".join(argv) or "--version" in argv
        return "release 13.0" if known or stderr else None

    monkeypatch.setattr(targets, "find_nvcc", lambda compiler: compiler)
    monkeypatch.setattr(targets, "_output", output)
    target = describe_cuda.__wrapped__("nvcc", "native")
    assert target.march == arch
    assert note in target.note
    assert bool(note) == bool(target.note)
