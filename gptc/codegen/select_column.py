"""Column regions: terms summed over the rows of a table, or over all of it when one number remains."""

from __future__ import annotations

import math

from gptc.codegen.kernel import Call, KernelSpec
from gptc.codegen.loops import Extents, collapse, table_accesses
from gptc.codegen.operands import ROW, RegionCode
from gptc.codegen.render import identifiers
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
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
    element = code.element_block(row)
    begin = ["const int64_t at = i * cols;"] if code.reads_at else []
    if total and (begin or row.lines):
        begin.insert(0, "const int64_t i = k / chunks;")
    sums = [(r.pointer, code.names.new(f"{r.pointer}_sum"), _slot(k)) for k, r in enumerate(code.results)]
    where = "" if total or target.name == "cuda" else "[j - j0]"
    adds = [f"{s[1]}{where} += {element.values[r.value].text};" for s, r in zip(sums, code.results, strict=True)]
    spec = KernelSpec(
        "total" if total else "column",
        stem(node),
        {
            "function_lines": function.lines,
            "row_lines": begin + row.lines,
            "lines": element.lines + adds,
            "sums": sums,
        },
        code.signature(SIZES, ["[]" if total else "[cols]"] * len(sums), extents),
    )
    return Call(node, spec, code.arguments(extents))


def _slot(result: int) -> str:
    """Where the sum of item k stands among the items of all results."""
    return ("k", "items + k")[result] if result < 2 else f"{result} * items + k"


def _total_axes(rank: int, loops: int) -> int:
    """How many axes are columns when everything is summed: all of them where one loop can walk them."""
    return rank if loops <= 1 else 1
