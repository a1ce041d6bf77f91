"""How a thread of a GPU reads and writes the elements of a region: as vectors of VEC neighbours, 16 bytes an access.

An operand whose neighbours along the innermost loop are neighbours in memory is read as a vector before the thread
computes its elements one after another; any other one is read element by element.  Results are always vectors.  A
kernel is a template over VEC: its launcher takes 1 where rows or addresses are no multiples of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from gptc.codegen.operands import Operand, RegionCode, Result, ctype
from gptc.codegen.scalar import ATOM, Block, Dialect, Expr
from gptc.ir.types import DType

ACCESS = 16
"""Bytes that a thread reads or writes at once."""
NO_STEP = re.compile(r"_(span|period)\d*$")
"""Arguments that belong to the access of an operand, and are no distance of its rows."""


class Vectors:
    """The vectors of one kernel, whose innermost loop has the variable `index`.

    In the emitted text `<index>0` is the first element of a vector and `e` counts within it.
    """

    def __init__(self, code: RegionCode, index: str, results: Sequence[Result], kind: str = "int64_t") -> None:
        """`kind` is the type of the index, and of whole numbers: comparing 64 bits takes three instructions."""
        code.dialect = Dialect(kind, eager=True)
        self.code, self.index, self.kind = code, index, kind
        self.operands = [o for o in code.operands if o.tensor is not None and code.access[o.value].inner == index]
        self.arrays = {o.value: code.names.new(f"{o.value}_v") for o in self.operands}
        self.stored = {r.pointer: code.names.new(f"{r.value}_v") for r in results}
        kinds = [o.tensor.type.dtype for o in self.operands if o.tensor] + [r.tensor.type.dtype for r in results]
        self.width = min(8, max((ACCESS // kind.size for kind in kinds), default=4))
        self.pointers = [*(o.pointer for o in self.operands), *self.stored]

    def params(self, extent: str) -> dict[str, object]:
        """VEC, and what it asks for: a loop's `extent` and distances of rows that are multiples, aligned addresses."""
        arguments = [name for o in self.operands for name, _ in self.code.access[o.value].extents]
        steps = [name for name in arguments if not NO_STEP.search(name)]
        return {"VEC": self.width, "multiples": [extent, *steps], "aligned": self.pointers}

    def where(self, operand: Operand) -> str:
        """The address at which a vector of `operand` begins."""
        base = self.code.bases.get(operand.value, self.code.access[operand.value].outer)
        return " + ".join(part for part in (operand.pointer, base, f"{self.index}0") if part)

    def loads(
        self, wanted: Collection[str], kept: Collection[str] = (), copies: Mapping[str, str] | None = None
    ) -> list[str]:
        """Lines that read vectors of the operands called `wanted`, but for those `kept` from before.

        `copies` names those that have been copied to shared memory.
        """
        lines = []
        for operand in self.operands:
            if operand.value in wanted and operand.value not in kept:
                copied = (copies or {}).get(operand.value)
                address = f"{copied} + {self.index}0" if copied else self.where(operand)
                lines.append(f"{element(operand)} {self.arrays[operand.value]}[VEC];")
                lines.append(f"gptc_load({self.arrays[operand.value]}, {address});")
        return lines

    def define(self, block: Block, wanted: Collection[str], kept: Collection[str] = ()) -> None:
        """Make the elements called `wanted` known in the loop over e; those `kept` have a first index p."""
        vectors = {o.value for o in self.operands}
        for operand in self.operands:
            if operand.value in wanted:
                at = "[p][e]" if operand.value in kept else "[e]"
                kind = "float" if element(operand) == "float" else "int"
                block.define(operand.value, Expr(f"{self.arrays[operand.value]}{at}", ATOM, kind))
        self.code.load_elements(block, set(wanted) - vectors)

    def stores(self, block: Block, results: Sequence[Result], index: str) -> tuple[list[str], list[str], list[str]]:
        """Lines before, in and after the loop over e that store `results` at `index`."""
        before, inside, after = [], [], []
        for result in results:
            dtype, array, value = result.tensor.type.dtype, self.stored[result.pointer], block.values[result.value]
            text = value.unrounded or value.text if dtype in (DType.bf16, DType.f16) else value.text
            before.append(f"{'float' if dtype.is_float else 'int32_t'} {array}[VEC];")
            inside.append(f"{array}[e] = {text};")
            after.append(f"gptc_store({result.pointer} + {index}, {array});")
        return before, inside, after

    def loop(self, before: list[str], lines: list[str], after: list[str]) -> dict[str, object]:
        """A loop over e; it needs the index itself only where a line mentions it."""
        if any(re.search(rf"\b{self.index}\b", line) for line in lines):
            lines = [f"const {self.kind} {self.index} = {self.index}0 + e;", *lines]
        return {"loads": before, "lines": lines, "stores": after}


def element(operand: Operand) -> str:
    """The type in which a vector of the operand is held."""
    assert operand.tensor is not None
    return "float" if operand.tensor.type.dtype.is_float else "int32_t"


def in_memory(operand: Operand) -> str:
    """The type of its elements where they lie."""
    assert operand.tensor is not None
    return ctype(operand.tensor.type.dtype)
