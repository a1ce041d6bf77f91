"""Elementwise regions: as few loops as the operands' strides allow, the innermost one vectorised."""

from __future__ import annotations

from gptc.codegen.kernel import Call, KernelSpec
from gptc.codegen.loops import LETTERS, Nest, nest
from gptc.codegen.operands import ROW, RegionCode
from gptc.codegen.render import identifiers
from gptc.codegen.scalar import Block
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
from gptc.codegen.vectors import Vectors
from gptc.ir.graph import Node

RESERVED = {"n", *(text for i in LETTERS for text in (i, f"{i}0", f"{i}1", f"n{i}"))}


def select_map(node: Node, target: Target) -> Call:
    """The call for a `map` region.  Results are contiguous; operands may be strided or broadcast."""
    code = RegionCode(node, identifiers(target.template("map")) | RESERVED)
    loops = nest([o.pointer for o in code.operands], code.space, [o.strides for o in code.operands])
    code.suffix = ("_0", f"_{loops.letters[-2:-1]}", f"_{loops.letters[-1]}")
    code.place(loops.accesses)

    function, row = code.outer_blocks()
    code.compute_outer(row, code.computed, ROW)
    inner = loops.letters[-1]
    at = f"at + {inner}" if len(loops.letters) > 1 else inner
    sizes = {letter: extent for letter, (extent, _) in zip(loops.letters, loops.extents, strict=True)}
    dense = f"[{', '.join(sizes.values())}]"
    signature = code.signature(sizes, [dense] * len(code.results), loops.extents)
    cuda = target.name == "cuda"
    elements = _vectors(code, row, inner, at, sizes[inner]) if cuda else _scalars(code, row, at)
    spec = KernelSpec(
        "map",
        stem(node),
        {
            "outer": list(sizes.items())[:-1],
            "inner": (inner, sizes[inner]),
            "at": _begin(loops),
            "function_lines": function.lines,
            "row_lines": row.lines,
        }
        | elements,
        signature,
    )
    return Call(node, spec, code.arguments(loops.extents))


def _scalars(code: RegionCode, row: Block, at: str) -> dict[str, object]:
    element = code.element_block(row)
    return {"element_lines": element.lines + code.stores(element, code.results, at)}


def _vectors(code: RegionCode, row: Block, inner: str, at: str, extent: str) -> dict[str, object]:
    vectors = Vectors(code, inner, code.results)
    element = code.element_block(row, vectors.define)
    before, inside, after = vectors.stores(element, code.results, f"{at}0")
    loop = vectors.loop(vectors.loads(code.depth) + before, element.lines + inside, after)
    return vectors.params(extent) | loop


def _begin(loops: Nest) -> str:
    """The element of a dense result at which the last loop begins: `(i * nj + j) * nk`."""
    text = ""
    for letter, (extent, _) in zip(loops.letters, loops.extents, strict=True):
        text = f"({text}) * {extent} + {letter}" if " " in text else f"{text} * {extent} + {letter}" if text else letter
    return text.removesuffix(f" + {loops.letters[-1]}") if len(loops.letters) > 1 else ""
