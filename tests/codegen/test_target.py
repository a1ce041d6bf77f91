"""What the compiler is asked, and what its refusals become."""

from __future__ import annotations

import pytest

from gptc.codegen.target import FLAGS, _vector, describe, target_for
from gptc.errors import InputError, ToolMissing
from gptc.options import Options
from tests.codegen.native import TARGET


def test_native() -> None:
    target = target_for(Options(compiler=TARGET.compiler))
    assert target is TARGET
    assert set(FLAGS) <= set(target.flags)
    assert "-march=native" in target.flags
    assert not any("fast-math" in flag for flag in target.flags)


@pytest.mark.parametrize(
    ("macros", "floats"), [({"__AVX512F__", "__AVX2__"}, 16), ({"__AVX2__"}, 8), ({"__SSE2__"}, 4), ({"__ARM_NEON"}, 4)]
)
def test_vector_width(macros: set[str], floats: int) -> None:
    assert _vector(frozenset(macros)) == floats


@pytest.mark.parametrize(
    ("march", "floats", "tile"), [("x86-64-v2", 4, (8, 12)), ("x86-64-v3", 8, (4, 24)), ("x86-64-v4", 16, (8, 48))]
)
def test_instruction_sets(march: str, floats: int, tile: tuple[int, int]) -> None:
    try:
        target = describe(TARGET.compiler, march)
    except InputError:
        pytest.skip("no compiler for x86")
    assert (target.vector, target.tile) == (floats, tile)
    assert ("-mprefer-vector-width=512" in target.flags) == (floats == 16)


@pytest.mark.parametrize(("march", "bf16"), [("x86-64-v3", False), ("x86-64-v4", False), ("cooperlake", True)])
def test_bf16_needs_its_instruction(march: str, bf16: bool) -> None:
    try:
        describe(TARGET.compiler, march)
    except InputError:
        pytest.skip("no compiler for x86")
    options = Options(compiler=TARGET.compiler, march=march, precision="bf16")
    if bf16:
        assert target_for(options).bf16
    else:
        with pytest.raises(InputError, match="AVX512_BF16") as caught:
            target_for(options)
        assert caught.value.diagnostics[0].hint == "use --precision f32"


def test_unknown_instruction_set() -> None:
    with pytest.raises(InputError, match="instruction set 'pentium-9'") as caught:
        describe(TARGET.compiler, "pentium-9")
    assert caught.value.diagnostics[0].hint


@pytest.mark.parametrize("compiler", ["no-such-compiler-here", "/", "", "cc 'unclosed", "false"])
def test_missing_compiler(compiler: str) -> None:
    with pytest.raises(ToolMissing, match="no working C compiler"):
        describe(compiler, "native")


@pytest.mark.parametrize("march", ["native -fplugin=/tmp/x.so", "native\n", "", "-o", "native;touch /tmp/pwned"])
def test_hostile_instruction_sets(march: str) -> None:
    """The name is one argument of the compiler, which does not know it."""
    with pytest.raises(InputError, match="knows no instruction set"):
        describe(TARGET.compiler, march)
