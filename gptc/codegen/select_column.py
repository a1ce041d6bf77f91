"""Column regions: terms summed over the rows of a table, or over all of it when one number remains."""

from __future__ import annotations

import math

from gptc.codegen.kernel import Call, KernelSpec, Scratch, ceil_div
from gptc.codegen.loops import Extents, collapse, table_accesses
from gptc.codegen.operands import ROW, RegionCode
from gptc.codegen.render import identifiers
from gptc.codegen.scalar import Block
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import HOPPER
from gptc.codegen.vectors import Vectors
from gptc.errors import InternalError
from gptc.ir.graph import Node
from gptc.ir.ops.region import Column
from gptc.ir.types import DType

SIZES = {"i": "rows", "j": "cols"}


def select_column(node: Node, target: Target) -> Call:
    """The call for a `column` region: template `column`, or `total` when its results have one element."""
    assert isinstance(node.op, Column)
    taken = identifiers(target.template("column")) | identifiers(target.template("total"))
    code = RegionCode(node, taken | {"i", "j"})
    if any(r.tensor.type.dtype is not DType.f32 for r in code.results):
        raise InternalError.of("a column region stores f32", node.span)
    strides = [o.strides for o in code.operands]
    total = math.prod(code.space[len(code.space) - node.op.keep :]) == 1
    axes = _total_axes(len(code.space), len(collapse(code.space, strides)[0])) if total else node.op.keep
    code.place(table_accesses([o.pointer for o in code.operands], code.space, strides, axes))
    lead = len(code.space) - axes
    rows, cols = math.prod(map(int, code.space[:lead])), math.prod(map(int, code.space[lead:]))
    extents: Extents = (("rows", rows), ("cols", cols))

    function, row = code.outer_blocks()
    code.compute_outer(row, code.computed, ROW)
    begin = ["const int64_t at = i * cols;"] if code.reads_at else []
    if total and (begin or row.lines):
        begin.insert(0, f"const int64_t i = {'item' if target.name == 'cuda' else 'k'} / chunks;")
    params: dict[str, object] = {"function_lines": function.lines, "row_lines": begin + row.lines}
    scratch: tuple[Scratch, ...] = ()
    if target.name == "cuda":
        vectors = Vectors(code, "j", [])
        params |= _vector_sums(code, row, vectors, total)
        if not total:
            params["early"] = target.march == HOPPER
        items = rows * ceil_div(cols, CHUNK) if total else _pieces(rows, cols, vectors.width)
        extents = (*extents, *(() if total else (("items", items),)))
        scratch = (Scratch(0 if items == 1 and not total else 4 * len(code.results) * items * (1 if total else cols)),)
    else:
        params |= _sums(code, row, total)
    shapes = ["[]" if total else "[cols]"] * len(code.results)
    spec = KernelSpec(
        "total" if total else "column", stem(node), params, code.signature(SIZES, shapes, extents, len(scratch))
    )
    return Call(node, spec, code.arguments(extents, scratch))


def _sums(code: RegionCode, row: Block, total: bool) -> dict[str, object]:
    """The lines that add an element to each result's sum: a vector of sums for columns, a number for a total."""
    element = code.element_block(row)
    sums = [(r.pointer, code.names.new(f"{r.pointer}_sum"), _slot(k)) for k, r in enumerate(code.results)]
    where = "" if total else "[j - j0]"
    adds = [f"{s[1]}{where} += {element.values[r.value].text};" for s, r in zip(sums, code.results, strict=True)]
    return {"lines": element.lines + adds, "sums": sums}


def _slot(result: int) -> str:
    """Where the sum of item k stands among the items of all results."""
    return ("k", "items + k")[result] if result < 2 else f"{result} * items + k"


def _vector_sums(code: RegionCode, row: Block, vectors: Vectors, total: bool) -> dict[str, object]:
    """The same for a thread that reads vectors, and what the kernel is tuned to."""
    element = code.element_block(row, vectors.define)
    sums = [(r.pointer, code.names.new(f"{r.pointer}_sum")) for r in code.results]
    where = "" if total else "[e]"
    adds = [f"{s[1]}{where} += {element.values[r.value].text};" for s, r in zip(sums, code.results, strict=True)]
    loop = vectors.loop(vectors.loads(code.depth), element.lines + adds, [])
    sizes: dict[str, object] = {"CHUNK": CHUNK} if total else {"GROUPS": GROUPS}
    return vectors.params("cols") | {"loads": loop["loads"], "lines": loop["lines"], "sums": sums} | sizes


CHUNK = 4096
"""Elements of a row that a block of a GPU adds up for a total."""
GROUPS = 16
"""Warps of a block that adds up columns, each every GROUPS-th row."""
BLOCKS = 396
"""Blocks that keep a large GPU busy: three on each of 132 processors."""


def _pieces(rows: int, cols: int, width: int) -> int:
    """Into how many pieces a GPU cuts the rows of a column region: enough blocks, of 4 rows a warp at least."""
    strips = ceil_div(cols, 32 * width)
    items = min(ceil_div(BLOCKS, strips), ceil_div(rows, 4 * GROUPS))
    return ceil_div(rows, ceil_div(rows, items))


def _total_axes(rank: int, loops: int) -> int:
    """How many axes are columns when everything is summed: all of them where one loop can walk them."""
    return rank if loops <= 1 else 1
