"""Row regions: a row is read once for each level of its reductions, then results are stored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from gptc.codegen.exponentials import share
from gptc.codegen.few_rows import FEW_ROWS
from gptc.codegen.kernel import Call, KernelSpec, Scratch, ceil_div
from gptc.codegen.loops import Extents, table_accesses
from gptc.codegen.operands import ELEMENT, ROW, Operand, RegionCode, Result, write
from gptc.codegen.phases import Phase, levels, split
from gptc.codegen.render import identifiers
from gptc.codegen.scalar import ATOM, Block, Expr, spell
from gptc.codegen.settled import column_tests, condition, settle
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import HOPPER, PROCESSORS
from gptc.codegen.vectors import ACCESS, Vectors, element, in_memory
from gptc.errors import InternalError
from gptc.ir.body import REDUCTIONS, Stmt
from gptc.ir.graph import Node
from gptc.ir.ops.region import Row

SIZES = {"i": "rows", "j": "cols"}
START = {"row_sum": "0", "row_mean": "0", "row_max": "-INFINITY"}
OPERATOR = {"row_sum": "+", "row_mean": "+", "row_max": "max"}


def select_row(node: Node, target: Target) -> Call:
    """The call for a `row` region.  Results are contiguous; operands may be strided or broadcast."""
    op = node.op
    assert isinstance(op, Row)
    if target.name == "c":
        node = replace(node, op=replace(op, body=share(op.body)))
    code = RegionCode(node, identifiers(target.template("row")) | {"j", "at"})
    accesses = table_accesses([o.pointer for o in code.operands], code.space, [o.strides for o in code.operands], 1)
    code.place(accesses)
    rows, cols = math.prod(map(int, code.space[:-1])), int(code.space[-1])
    extents: Extents = (("rows", rows), ("cols", cols))
    sums = [code.results[i] for i in op.sums]
    full = [r for r in code.results if int(r.tensor.type.shape[-1]) == cols and r not in sums]
    shapes = ["[rows, cols]" if r in full else "[cols]" if r in sums else "[rows]" for r in code.results]
    if sums:
        if target.name != "cuda":
            raise InternalError.of(f"target {target.name} has no rows with sums of columns", node.span)
        params = _CudaSums(code, full, sums, cols, target).params()
        items = min(rows, PROCESSORS * int(params["BLOCKS"]))
        extents, scratch = (*extents, ("items", items)), (Scratch(4 * len(sums) * items * cols),)
        spec = KernelSpec("row_sums", stem(node), params, code.signature(SIZES, shapes, extents, 1))
        return Call(node, spec, code.arguments(extents, scratch))
    params = (_CudaPasses(code, full, [], cols, target) if target.name == "cuda" else _CPasses(code, full, [])).params()
    if target.name == "cuda":
        params["overlap"] = target.overlaps and rows <= FEW_ROWS
    spec = KernelSpec("row", stem(node), params, code.signature(SIZES, shapes, extents))
    return Call(node, spec, code.arguments(extents))


class _Passes:
    """Writes the lines of one row kernel."""

    keeps: ClassVar[bool]
    """Whether a costly value waits in a buffer for the pass that needs it again, or is computed again."""
    mean: ClassVar[str] = "/= cols"
    """What makes the mean of a row from its sum."""

    def __init__(self, code: RegionCode, full: list[Result], sums: list[Result]) -> None:
        self.code = code
        self.full = full
        self.sums = [(r, code.names.new(f"{r.pointer}_sum")) for r in sums]
        self.stats = [r for r in code.results if r not in full and r not in sums]
        self.last = tuple(r.value for r in (*full, *sums))
        varying = {name for name, depth in code.depth.items() if depth == ELEMENT}
        self.phases = split(code.computed, varying, self.last, self.keeps)
        self.level = levels(code.computed)
        self.outer = [s for s in code.computed if code.depth[s.result] < ELEMENT and s.fn not in REDUCTIONS]
        self.buffers = {name: code.names.new(f"{name}_row") for phase in self.phases for name in phase.keeps}

    def params(self) -> dict[str, Any]:
        code = self.code
        function, row = code.outer_blocks()
        begin = ["const int64_t at = i * cols;"] if code.reads_at or self.full else []
        phases: list[dict[str, Any]] = []
        for k, phase in enumerate(self.phases):
            code.compute_outer(row, [s for s in self.outer if self.level[s.result] == k], ROW)
            before, row.lines = row.lines, []
            phases.append(self.phase(row, phase, before))
        stores = self.stat_stores(row)
        return {
            "function_lines": function.lines,
            "row_lines": begin,
            "phases": phases,
            "row_stores": row.lines + stores,
        }

    def phase(self, row: Block, phase: Phase, before: list[str]) -> dict[str, object]:
        """One loop, with what comes before and after it."""
        stored = () if phase.reductions else self.last
        before = [*before, *(f"float {self.code.local(s.result)} = {START[s.fn]};" for s in phase.reductions)]
        after = [f"{self.code.local(s.result)} {self.mean};" for s in phase.reductions if s.fn == "row_mean"]
        text = {"before": before, "after": after} | self.joined(phase, after)
        return text | self.elements(row, phase, stored)

    def elements(self, row: Block, phase: Phase, stored: tuple[str, ...]) -> dict[str, object]:
        """The loop itself; `stored`: the values that it stores, or adds to sums over all rows."""
        block = self.code.block(row, (*phase.elements, *phase.reductions), (*stored, *phase.keeps))
        for name in phase.finds:
            block.values[name] = Expr(f"{self.buffers[name]}[j]")
        names = reads(phase, stored) - set(phase.finds)
        self.load(block, names)
        for stmt in phase.elements:
            block.add(stmt, named=stmt.result in phase.keeps)
        lines = [f"{self.buffers[name]}[j] = {block.values[name].text};" for name in phase.keeps]
        lines += [self.update(row, block, stmt) for stmt in phase.reductions]
        lines += [f"{name}[p][e] += {block.values[r.value].text};" for r, name in self.sums if stored]
        return self.loop(block, lines, names, self.full if stored else [])

    def load(self, block: Block, names: set[str]) -> None:
        """Make the operands called `names` known in the loop."""
        self.code.load_elements(block, names)

    def loop(self, block: Block, lines: list[str], names: set[str], stored: list[Result]) -> dict[str, object]:
        """The loop's text: `lines` after those of the block, and the stores of results."""
        raise NotImplementedError

    def joined(self, phase: Phase, after: list[str]) -> dict[str, object]:
        """How the sums of vector lanes or threads come together, before `after`."""
        raise NotImplementedError

    def update(self, row: Block, block: Block, stmt: Stmt) -> str:
        """Add the element to a reduction, whose result the row knows from then on."""
        total = self.code.local(stmt.result)
        row.values[stmt.result] = Expr(total, ATOM)
        element = spell(Stmt(stmt.result, "copy", stmt.args), block.values.__getitem__)
        if stmt.fn == "row_max":
            return f"{total} = {self.larger(element, total)};"
        return f"{total} += {element.text};"

    def larger(self, element: Expr, total: str) -> str:
        """The larger of two; NaN of the element gives the total."""
        return f"{element.text} > {total} ? {element.text} : {total}"

    def stat_stores(self, row: Block) -> list[str]:
        """Results that are one number a row, stored when nothing reads the row's operands any more."""
        return [write(r.tensor.type.dtype, f"{r.pointer}[i]", row.values[r.value]) for r in self.stats]


class _CPasses(_Passes):
    """One thread a row, its loops vector code."""

    keeps = True

    def params(self) -> dict[str, Any]:
        return super().params() | {"buffers": list(self.buffers.values())}

    def loop(self, block: Block, lines: list[str], names: set[str], stored: list[Result]) -> dict[str, object]:
        stores = self.code.stores(block, stored, "at + j") if stored else []
        return {"lines": block.lines + lines + stores}

    def joined(self, phase: Phase, after: list[str]) -> dict[str, object]:
        found: dict[str, list[str]] = {}
        for stmt in phase.reductions:
            found.setdefault(OPERATOR[stmt.fn], []).append(self.code.local(stmt.result))
        return {"clauses": "".join(f" reduction({op} : {', '.join(v)})" for op, v in found.items())}


class _CudaPasses(_Passes):
    """The threads of a warp or block share a row.

    Arithmetic costs them less than memory for buffers would, but what several passes read is fetched once: it waits in
    registers, or in shared memory where the row is too long for that.
    """

    keeps = False
    mean = "*= 1.0f / cols"  # every thread divides: a number that is the same for all rows, and known early

    def __init__(self, code: RegionCode, full: list[Result], sums: list[Result], cols: int, target: Target) -> None:
        super().__init__(code, full, sums)
        self.vectors = Vectors(code, "j", full, "int")
        self.width = _width(cols)
        kept = [o for o in self.vectors.operands if code.access[o.value].outer and self._passes(o.value) > 1]
        whole = ceil_div(cols, self.width * 8) * self.width * 8
        in_registers = whole // self.width <= SHARE and whole // self.width * len(kept) <= REGISTERS
        self.columns = whole if in_registers else ceil_div(cols, 8) * 8
        self.kept = kept if in_registers else []
        sizes = [o.tensor.type.dtype.size for o in kept if o.tensor]
        fits = sum(sizes) * self.columns <= target.shared and all(n * self.vectors.width >= ACCESS for n in sizes)
        self.unrolled = in_registers
        self.staged = kept if fits and not in_registers else []
        self.copies = {o.value: code.names.new(f"{o.value}_row") for o in self.staged}

    def _passes(self, value: str) -> int:
        """How many of the passes read an operand."""
        return sum(value in reads(phase, () if phase.reductions else self.last) for phase in self.phases)

    def params(self) -> dict[str, Any]:
        vectors, found = self.vectors, super().params()
        first = found["phases"][0]  # what it begins with is where operands are found that are fetched before it
        found["row_lines"], first["before"] = found["row_lines"] + first["before"], []
        kept = [(element(o), vectors.arrays[o.value], vectors.where(o), self.next(o)) for o in self.kept]
        staged = [(in_memory(o), self.copies[o.value], vectors.where(o)) for o in self.staged]
        sizes = {
            "WIDTH": self.width,
            "COLUMNS": self.columns,
            "unrolled": self.unrolled,
            "whole": self.unrolled and self.columns == int(self.code.space[-1]),
            "kept": kept,
            "staged": staged,
        }
        return found | vectors.params("cols") | sizes

    def next(self, operand: Operand) -> str:
        """Where the threads find a vector of the operand in the next row they go through; empty for the only one."""
        return ""

    def elements(self, row: Block, phase: Phase, stored: tuple[str, ...]) -> dict[str, object]:
        """The loop, and lines for the vectors in which tests of the column need not be made."""
        text = super().elements(row, phase, stored)
        found = column_tests(phase, [s.result for s in self.code.stmts if s.fn == "col"], row.values)
        settled = super().elements(row, settle(phase, found, stored), stored) if found else {"lines": []}
        return text | {"settled": condition(found, "j0"), "settled_lines": settled["lines"]}

    def load(self, block: Block, names: set[str]) -> None:
        self.vectors.define(block, names, [o.value for o in self.kept])

    def loop(self, block: Block, lines: list[str], names: set[str], stored: list[Result]) -> dict[str, object]:
        before, inside, after = self.vectors.stores(block, stored, "at + j0")
        loads = self.vectors.loads(names, [o.value for o in self.kept], self.copies)
        return self.vectors.loop(loads + before, block.lines + lines + inside, after)

    def larger(self, element: Expr, total: str) -> str:
        """One instruction instead of two."""
        return f"fmaxf({element.text}, {total})"

    def joined(self, phase: Phase, after: list[str]) -> dict[str, object]:
        found: dict[str, list[str]] = {"max": [], "sum": []}
        for stmt in phase.reductions:
            found["max" if stmt.fn == "row_max" else "sum"].append(self.code.local(stmt.result))
        lines = [f"{name} = gptc_max<WIDTH>({name});" for name in found["max"]]
        if sums := found["sum"]:
            each = f"gptc_sum_each<WIDTH>({', '.join(sums)})"
            lines.append(f"{each};" if len(sums) > 1 else f"{sums[0]} = gptc_sum<WIDTH>({sums[0]});")
        return {"after": lines + after}


class _CudaSums(_CudaPasses):
    """The threads of a block share a row after another, each with a few columns of its own, and their sums."""

    def __init__(self, code: RegionCode, full: list[Result], sums: list[Result], cols: int, target: Target) -> None:
        super().__init__(code, full, sums, cols, target)
        vector = self.vectors.width
        self.width = min(512, 32 * ceil_div(cols, 32 * vector))
        self.columns = ceil_div(cols, self.width * vector) * self.width * vector
        self.kept = [o for o in self.vectors.operands if code.access[o.value].outer]  # all are fetched at once
        self.unrolled, self.staged = True, []
        self.early = target.march == HOPPER

    def next(self, operand: Operand) -> str:
        dense = self.code.access[operand.value].outer == "at"
        return f"{operand.pointer} + at + items * cols + j0" if dense else ""

    def params(self) -> dict[str, Any]:
        floats = self.columns // self.width * (len(self.kept) + len(self.sums))
        blocks = REGISTER_FILE // (self.width * (floats + OTHERS))
        sums = [(r.pointer, name) for r, name in self.sums]
        return super().params() | {
            "sums": sums,
            "BLOCKS": max(1, min(blocks, MOST_BLOCKS, 2048 // self.width)),
            "early": self.early,
        }


MOST_BLOCKS = 32
"""That a multiprocessor has room for, however small they are."""
REGISTER_FILE = 65536
"""Registers of a multiprocessor."""
OTHERS = 32
"""Registers that a thread needs beside the elements and sums it keeps."""
REGISTERS = 64
"""Of a thread, for elements of operands that wait for the next pass."""
SHARE = 32
"""Elements of a row for each thread, as long as there are threads enough."""


def _width(cols: int) -> int:
    """Threads of a row: one for SHARE elements, up to 512: several such blocks hide each other's barriers."""
    return next((width for width in (32, 128, 256) if cols <= SHARE * width), 512)


def reads(phase: Phase, stored: tuple[str, ...]) -> set[str]:
    """Names that a pass reads."""
    return {a for s in (*phase.elements, *phase.reductions) for a in s.args if isinstance(a, str)} | set(stored)
