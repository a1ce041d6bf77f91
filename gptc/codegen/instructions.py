"""Instruction sets: what the kernels must know of a processor, and which of them a compiler's flags choose.

A vector type wider than the registers compiles and then crawls, so the width comes from here and nowhere else, and
emitted code checks it once more (`support.h`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionSet:
    """Vector instructions of a family of processors.  The tiles were measured (docs/performance.md)."""

    name: str
    macro: str
    """What compilers predefine where it may be used."""
    march: str
    """An argument of `-march` that has it."""
    vector: int
    """Floats in a register."""
    registers: int
    tile: tuple[int, int]
    """Rows and columns of a matrix product's register tile."""
    narrow: tuple[int, int]
    """The same where the columns of C do not fill tiles of that width."""
    attention_rows: int
    """Rows of a register tile of attention."""
    sums: int
    """Independent sums of the arithmetic probe: with two constants they fit the registers, and they hide the latency of
    the slowest instruction (12 are too few for vdpbf16ps)."""

    def tile_for(self, columns: int) -> tuple[int, int]:
        """The tile for a product of so many columns: those that a tile has too many are computed for nothing."""
        wide, narrow = (-columns % tile[1] for tile in (self.tile, self.narrow))
        return self.narrow if wide * WASTE > columns and narrow < wide else self.tile


WASTE = 16
"""More than one column in so many for nothing makes the narrow tile, which is a little slower, the better one."""

INSTRUCTION_SETS = (
    InstructionSet("AVX-512", "__AVX512F__", "x86-64-v4", 16, 32, (8, 48), (8, 32), 8, 24),
    InstructionSet("AVX2", "__AVX2__", "x86-64-v3", 8, 16, (4, 24), (6, 16), 4, 12),
    InstructionSet("SSE2", "__SSE2__", "x86-64", 4, 16, (4, 12), (6, 8), 4, 12),
    InstructionSet("NEON", "__ARM_NEON", "armv8-a", 4, 32, (8, 12), (8, 8), 8, 12),
)
"""The best first."""

FEATURES = (
    "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "fma", "avx2", "bmi", "bmi2",
    "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512ifma", "avx512vnni", "avx512bf16",
    "avx512er", "avx512pf",
)  # fmt: skip
"""What `__builtin_cpu_supports` can tell and compilers use unasked."""


def choose(macros: Collection[str]) -> InstructionSet | None:
    """The best of those whose macro is predefined."""
    return next((known for known in INSTRUCTION_SETS if known.macro in macros), None)


def features(macros: Collection[str]) -> tuple[str, ...]:
    """What a processor must have to run code compiled under these macros."""
    return tuple(name for name in FEATURES if f"__{name.upper().replace('.', '_')}__" in macros)
