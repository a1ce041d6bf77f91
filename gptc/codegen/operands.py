"""What the kernels of regions have in common: names, loads and stores of tensors, and the three depths of a nest.

Depth 0 is the function, 1 the outer loops (a row), 2 the innermost loop (an element).  A value lives as far out
as what it reads allows.

Aliasing.  A result may share the memory of an operand of its own type.  Every kernel keeps to one rule that makes
this right: an element is read before that element is written, and no element is read after its own loop
iteration has stored.  So where a loop stores several results, all of them are computed first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gptc.codegen.filters import c_ident
from gptc.codegen.kernel import Argument, Parameter, Scratch
from gptc.codegen.loops import Access, Extents, Strides, broadcast_strides, index_strides
from gptc.codegen.scalar import ATOM, Block, Dialect, Expr
from gptc.errors import InternalError
from gptc.ir.body import INDICES, REDUCTIONS, Body, Stmt
from gptc.ir.compose import live
from gptc.ir.graph import Node, Value
from gptc.ir.ops.region import Region
from gptc.ir.types import DType

FUNCTION, ROW, ELEMENT = range(3)

CTYPES = {
    DType.f32: "float", DType.bf16: "bf16", DType.f16: "f16", DType.i32: "int32_t", DType.i8: "int8_t",
    DType.u8: "uint8_t",
}  # fmt: skip
"""How an element lies in memory; bf16 is the upper half of a float's bits in C, f16 a type of CUDA alone."""

STATISTICS = "mean", "rstd", "lse"
"""What a forward kernel keeps of a row for its gradient."""


def ctype(dtype: DType) -> str:
    """The C type of an element; an error for types that no kernel handles."""
    if dtype not in CTYPES:
        raise InternalError.of(f"no kernel reads or writes {dtype}")
    return CTYPES[dtype]


class Names:
    """C names of one function, each given once."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.taken = set(reserved)

    def new(self, text: str, suffix: str = "_") -> str:
        """A name like `text`; with the suffix, then a number, where it is taken."""
        name = c_ident(text)
        if name in self.taken:
            name += suffix
        stem, index = name, 1
        while name in self.taken:
            index += 1
            name = f"{stem}{index}"
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class Operand:
    """An input of a body: a tensor, or (without `tensor`) a position in the iteration space."""

    value: str
    pointer: str
    strides: Strides
    tensor: Value | None

    def load(self, outer: str, inner: str) -> Expr:
        """The element at outer + inner as a scalar."""
        index = " + ".join(part for part in (outer, inner) if part) or "0"
        if self.tensor is None:
            return Expr(f"({index})" if " " in index else index, ATOM, "int")
        return read(self.tensor.type.dtype, f"{self.pointer}[{index}]")


@dataclass(frozen=True)
class Result:
    """An output of a body: its pointer, its name in the body, the tensor it fills."""

    pointer: str
    value: str
    tensor: Value


def read(dtype: DType, element: str) -> Expr:
    """An element in memory as a scalar."""
    if dtype in (DType.bf16, DType.f16):
        return Expr(f"gptc_from_{dtype}({element})")
    return Expr(element, ATOM, "float" if dtype.is_float else "int")


def write(dtype: DType, element: str, value: Expr) -> str:
    """The statement that stores a scalar."""
    rounded = dtype in (DType.bf16, DType.f16)
    return f"{element} = {f'gptc_to_{dtype}({value.unrounded or value.text})' if rounded else value.text};"


def _title(name: str, value: Value, inputs: Collection[str]) -> str:
    """What a kernel calls an operand: where its body only says which one it is (`a`, `b1`), what the tensor is.

    Only what all calls of a kernel have in common can be said: that it is a statistic, or the gradient.
    """
    title = "dy" if value.name.startswith("d.") else value.name.rsplit(".", 1)[-1]
    known = title in ("dy", *STATISTICS) and title not in inputs
    return title if known and re.fullmatch(r"[ab]\d*", name) else name


class RegionCode:
    """A region on its way to C: live statements, operands, result pointers, and how far out each value lives."""

    def __init__(self, node: Node, reserved: Iterable[str]) -> None:
        assert isinstance(node.op, Region)
        self.node = node
        self.body: Body = node.op.body
        self.space = node.op.space([v.type for v in node.operands])
        self.stmts = live(self.body.stmts, self.body.outputs)
        self.names = Names(reserved)
        inputs = self.body.inputs
        self.titles = {name: _title(name, value, inputs) for name, value in zip(inputs, node.operands, strict=True)}
        self.operands = self._operands()
        self.results = [
            Result(self.names.new(self.titles.get(output, output), "_out"), output, value)
            for output, value in zip(self.body.outputs, node.results, strict=True)
        ]
        self.access: dict[str, Access] = {}
        self.depth: dict[str, int] = {}
        self.suffix: tuple[str, str, str] = ("_0", "_i", "_j")
        self.bases: dict[str, str] = {}
        self.locals: dict[str, str] = {}
        self.dialect = Dialect()

    def _operands(self) -> list[Operand]:
        """Operands that are read, then the positions that occur."""
        needed = {a for s in self.stmts for a in s.args if isinstance(a, str)} | set(self.body.outputs)
        found = [
            Operand(name, self.names.new(self.titles[name]), broadcast_strides(value.type, self.space), value)
            for name, value in zip(self.body.inputs, self.node.operands, strict=True)
            if name in needed
        ]
        axes = {"row": -2, "col": -1, "index": None}
        return found + [
            Operand(s.result, s.fn, index_strides(self.space, axes[s.fn]), None) for s in self.stmts if s.fn in INDICES
        ]

    def place(self, accesses: Sequence[Access]) -> None:
        """Say where the operands lie in the loops, which decides how far out each value can live."""
        for operand, access in zip(self.operands, accesses, strict=True):
            self.access[operand.value] = access
            self.depth[operand.value] = ELEMENT if access.inner else ROW if access.outer else FUNCTION
        for stmt in self.computed:
            read_at = [self.depth[a] for a in stmt.args if isinstance(a, str)]
            self.depth[stmt.result] = ROW if stmt.fn in REDUCTIONS else max(read_at, default=FUNCTION)

    @property
    def computed(self) -> list[Stmt]:
        """The statements that are no operands."""
        return [s for s in self.stmts if s.fn not in INDICES]

    @property
    def extents(self) -> Extents:
        """The strides and periods that the operands' accesses mention."""
        return tuple(e for o in self.operands for e in self.access[o.value].extents)

    def local(self, value: str) -> str:
        """The C name of the scalar called `value` in the body, in whichever blocks compute it."""
        if value not in self.locals:
            title = self.titles.get(value, value)
            word = self._word(title)
            self.locals[value] = self.names.new(word, self.suffix[self.depth[value]] if word == title else "")
        return self.locals[value]

    def _word(self, value: str) -> str:
        """The name a person would give: that of the body, or what it is where that only counts (`t3`)."""
        if not re.fullmatch(r"t\d+", value):
            return value
        stmt = next((s for s in self.stmts if s.result == value), None)
        if stmt is None or stmt.fn not in (*INDICES, *REDUCTIONS):
            return value
        of = [self.titles.get(a, a) for a in stmt.args if isinstance(a, str) and not re.fullmatch(r"t\d+", a)]
        return "_".join([stmt.fn.removeprefix("row_"), *of])

    def block(self, outer: Block | None, stmts: Sequence[Stmt], stored: Sequence[str]) -> Block:
        """A C block inside `outer`, in which `stmts` and the stores of `stored` read values."""
        return Block(outer.values if outer else {}, stmts, stored, self.local, self.dialect)

    def outer_blocks(self) -> tuple[Block, Block]:
        """The function's and the row's block, with all that is known before the first element is read."""
        function = self.block(None, self.computed, self.body.outputs)
        self.load_outer(function, FUNCTION)
        self.compute_outer(function, self.computed, FUNCTION)
        row = self.block(function, self.computed, self.body.outputs)
        self.load_outer(row, ROW)
        return function, row

    @property
    def reads_at(self) -> bool:
        """Whether some operand lies like a full result, its row at `at`."""
        return any(a.outer == "at" for a in self.access.values())

    def element_block(self, row: Block, load: Callable[[Block, Collection[str]], None] | None = None) -> Block:
        """All elements of a region without reductions; `load` makes operands known, if not `load_elements`."""
        elements = [s for s in self.computed if self.depth[s.result] == ELEMENT]
        block = self.block(row, elements, self.body.outputs)
        (load or self.load_elements)(block, self.depth)
        for stmt in elements:
            block.add(stmt)
        return block

    def load_outer(self, block: Block, depth: int) -> None:
        """Read the operands that live at `depth`; for a row, also find where the rows of the others begin."""
        for operand in self.operands:
            access = self.access[operand.value]
            if self.depth[operand.value] == depth:
                block.define(operand.value, operand.load(access.outer, access.inner), named=True)
            elif depth == ROW and access.inner and access.outer not in ("", "at"):
                base = self.names.new(f"{operand.pointer}_at")
                block.lines.append(f"const int64_t {base} = {access.outer};")
                self.bases[operand.value] = base

    def load_elements(self, block: Block, needed: Collection[str]) -> None:
        """Read the elements called `needed`."""
        for operand in self.operands:
            access = self.access[operand.value]
            if operand.value in needed and access.inner:
                base = self.bases.get(operand.value, access.outer)
                block.define(operand.value, operand.load(base, access.inner))

    def compute_outer(self, block: Block, stmts: Iterable[Stmt], depth: int) -> None:
        """Spell those of `stmts` that live at `depth`; what a deeper loop reads is a constant outside of it."""
        for stmt in stmts:
            if self.depth[stmt.result] == depth:
                read_deeper = any(self.depth[s.result] > depth for s in self.stmts if stmt.result in s.args)
                block.add(stmt, named=read_deeper and any(isinstance(a, str) for a in stmt.args))

    def stores(self, block: Block, results: Sequence[Result], index: str) -> list[str]:
        """Statements that store `results`; several are computed first, because one may overwrite what another reads."""
        if len(results) > 1:
            for result in results:
                block.name_now(result.value)
        return [write(r.tensor.type.dtype, f"{r.pointer}[{index}]", block.values[r.value]) for r in results]

    def signature(
        self, sizes: Mapping[str, str], shapes: Sequence[str], extents: Extents, scratch: int = 0
    ) -> tuple[Parameter, ...]:
        """Operands, results of the given `shapes`, scratch memory where there is any, extents.

        `sizes` maps a loop variable to its extent's name.
        """
        inputs = [
            tensor_parameter(o.pointer, o.tensor, True, _describe(self.access[o.value], sizes))
            for o in self.operands
            if o.tensor is not None
        ]
        outputs = [
            tensor_parameter(r.pointer, r.tensor, False, shape) for r, shape in zip(self.results, shapes, strict=True)
        ]
        memory = [Parameter("scratch", "void *", "partial sums")] * scratch
        return (*inputs, *outputs, *memory, *(Parameter(name, "int64_t") for name, _ in (*extents, *self.extents)))

    def arguments(self, extents: Extents, scratch: tuple[Scratch, ...] = ()) -> tuple[Argument, ...]:
        """What a call passes for `signature`."""
        tensors = [o.tensor for o in self.operands if o.tensor is not None]
        numbers = (n for _, n in (*extents, *self.extents))
        return (*tensors, *(r.tensor for r in self.results), *scratch, *numbers)


def tensor_parameter(name: str, value: Value, const: bool, comment: str) -> Parameter:
    kind = ctype(value.type.dtype)
    return Parameter(name, f"const {kind} *" if const else f"{kind} *", comment)


def _describe(access: Access, sizes: Mapping[str, str]) -> str:
    """The shape of an operand, or the index at which it is read where that says more."""
    if access.outer == "at":
        return f"[{', '.join(sizes.values())}]"
    index = " + ".join(part for part in (access.outer, access.inner) if part)
    return f"[{sizes.get(index, index)}]"
