"""Matrix products with an epilogue: strides of the three matrices, batches, and what the epilogue reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gptc.codegen.few_rows import cut_product, is_param, most_rows
from gptc.codegen.kernel import Call, KernelSpec, Parameter, Scratch
from gptc.codegen.loops import Strides, collapse
from gptc.codegen.operands import Names, ctype, read, tensor_parameter, write
from gptc.codegen.render import identifiers
from gptc.codegen.scalar import Block, Expr
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import Matmul, Plan, begin_aligned
from gptc.codegen.vectors import ACCESS
from gptc.errors import InternalError
from gptc.ir.body import Stmt
from gptc.ir.compose import live
from gptc.ir.graph import Node, Value
from gptc.ir.ops.matmul import FEW_ROWS
from gptc.ir.ops.region import Gemm
from gptc.ir.types import DType, TensorType

SHAPES = {"full": "like C", "row": "[M]", "col": "[N]", "scalar": "[]"}
ROLES: dict[tuple[str, ...], str] = {("add", "col"): "bias", ("mul", "col"): "scale", ("add", "full"): "addend"}
SIZES = ("M", "N", "K", "lda", "ldb", "ldc", "batch0", "batch1", "sa0", "sa1", "sb0", "sb1", "sc0", "sc1")


def select_gemm(node: Node, target: Target, plan: Plan) -> Call:
    """The call for a `gemm` region: template `matmul`, `gemv` for a few rows, on a GPU what its tensor cores take."""
    op = node.op
    assert isinstance(op, Gemm)
    a, b = (v.type for v in node.operands[:2])
    if a.dtype not in (DType.f32, DType.bf16, DType.f16):
        raise InternalError.of(f"target {target.name} multiplies no {a}", node.span)
    product = op.product([v.type for v in node.operands])
    form = Product.of(a, b, product, op.trans_a, op.trans_b)
    few = _rows_of_few(node, form, target, plan)
    if target.name == "cuda" and a.dtype is not DType.f32 and not few:
        return _on_tensor_cores(node, form, product, target, plan)

    told = slice(1, 6) if few else slice(None)  # gemv makes one product, and has its number of rows in its text
    template = _template(a.dtype, bool(few), target)
    code = _Epilogue(node, product, form, identifiers(target.template(template)))
    spec = KernelSpec(
        template,
        "gemv" + stem(node, str(few)).removeprefix(node.op.name) if few else stem(node, form.name),
        {
            **(_few(few, node, form, target, plan) if few else _blocking(a, form, target, template)),
            "inputs": [{"name": n, "ctype": ctype(v.type.dtype), "access": access} for n, access, v in code.inputs],
            "results": [{"name": n, "ctype": ctype(v.type.dtype)} for n, _, v in code.results],
            "body": code.block.lines,
            "stores": [write(v.type.dtype, f"*{name}", code.block.values[output]) for name, output, v in code.results],
        },
        code.signature(SIZES[told]),
    )
    return Call(node, spec, (*code.tensors, *form.sizes[told]))


def _template(dtype: DType, few: bool, target: Target) -> str:
    """That of a product which is not for the tensor cores of a GPU."""
    if target.name == "cuda" and dtype is DType.f32:
        return "gemv_f32" if few else "matmul_f32"
    if few:
        return "gemv"
    return "matmul_amx" if target.amx and dtype is DType.bf16 else "matmul"


def _on_tensor_cores(node: Node, form: Product, product: TensorType, target: Target, plan: Plan) -> Call:
    """The call of `matmul_sm90` or `matmul`, whose epilogue gets floats and gives floats."""
    templates = [target.template(name) for name in ("matmul", "matmul_sm90")]
    code = _Epilogue(node, product, form, frozenset().union(*map(identifiers, templates)), loaded=True)
    like_c = [v for _, access, v in code.inputs if access == "full"]
    m, n, k, lda, ldb, ldc, batch0, batch1, *apart = form.sizes
    narrow = node.operands[0].type.dtype
    work = Matmul(
        m, n, k, form.trans_a, form.trans_b, (lda, ldb, ldc), tuple(apart) if batch0 * batch1 > 1 else (),
        sum(v.type.dtype is narrow for v in node.results), sum(v.type.dtype is narrow for v in like_c),
        begin_aligned((*node.operands, *node.results), plan),
    )  # fmt: skip
    choice = work.choose(target.march)
    names: tuple[str, ...] = SIZES
    sizes = form.sizes
    memory: tuple[Scratch, ...] = ()
    if choice.template == "matmul_sm90":
        names = (*SIZES[:6], "splits", "sweep")
        splits, partial = work.split(choice)
        memory = (Scratch(partial),) if choice.params["split"] else ()
        sizes = (*form.sizes[:6], splits, work.sweep(choice))
    kinds = {DType.f32: "float", narrow: str(narrow)}
    values = [(name, value.unrounded or value.text) if v.type.dtype is narrow else (name, value.text)
              for name, output, v in code.results for value in (code.block.values[output],)]  # fmt: skip
    spec = KernelSpec(
        choice.template,
        stem(node, form.name),
        {
            **choice.params,
            "dtype": str(narrow),
            "trans_a": form.trans_a,
            "trans_b": form.trans_b,
            "inputs": [{"name": n, "ctype": kinds[v.type.dtype], "access": access} for n, access, v in code.inputs],
            "results": [{"name": n, "ctype": kinds[v.type.dtype]} for n, _, v in code.results],
            "body": code.block.lines,
            "stores": values,
        },
        code.signature(names, len(memory)),
    )
    return Call(node, spec, (*code.tensors, *memory, *sizes), choice.note)


class _Epilogue:
    """The body of a region behind a product: what it reads and makes, each with its name, and its statements."""

    def __init__(
        self, node: Node, product: TensorType, form: Product, reserved: Collection[str], loaded: bool = False
    ) -> None:
        """`loaded`: inputs are floats already, not places in memory."""
        op = node.op
        assert isinstance(op, Gemm)
        self.factors = node.operands[:2]
        names = Names(reserved)
        acc, *rest = op.body.inputs
        stmts = live(op.body.stmts, op.body.outputs)
        self.inputs = [
            (names.new(_role(name, access, stmts)), access, value)
            for name, value in zip(rest, node.operands[2:], strict=True)
            for access in (_access(value.type, product, form),)
        ]
        self.results = [
            (names.new("c" if n == acc else n, "_out"), n, v)
            for n, v in zip(op.body.outputs, node.results, strict=True)
        ]
        self.block = Block({acc: Expr("acc")}, stmts, op.body.outputs, names.new)
        for name, (local, _, value) in zip(rest, self.inputs, strict=True):
            self.block.define(name, Expr(local) if loaded else read(value.type.dtype, local))
        for stmt in stmts:
            self.block.add(stmt)

    @property
    def tensors(self) -> tuple[Value, ...]:
        """In the order of the signature."""
        return (*self.factors, *(v for _, _, v in self.inputs), *(v for _, _, v in self.results))

    def signature(self, sizes: Sequence[str], scratch: int = 0) -> tuple[Parameter, ...]:
        a, b = self.factors
        return (
            tensor_parameter("a", a, True, ""),
            tensor_parameter("b", b, True, ""),
            *(tensor_parameter(name, value, True, SHAPES[access]) for name, access, value in self.inputs),
            *(tensor_parameter(name, value, False, "[M, N]") for name, _, value in self.results),
            *[Parameter("scratch", "void *")] * scratch,
            *(Parameter(name, "int64_t") for name in sizes),
        )


def _rows_of_few(node: Node, form: Product, target: Target, plan: Plan) -> int:
    """M of a product that has a kernel for its few rows; 0 for any other.  That of a GPU reads 16 bytes at a time."""
    a, b = node.operands[:2]
    if target.name == "c":
        return form.rows_of_few(FEW_ROWS)
    _, n, k, lda, ldb, *_ = form.sizes
    whole = all(x * a.type.dtype.size % ACCESS == 0 for x in (k, lda, ldb))
    return form.rows_of_few(most_rows(n, a.type.dtype)) if whole and begin_aligned((a, b), plan) else 0


def _few(rows: int, node: Node, form: Product, target: Target, plan: Plan) -> dict[str, object]:
    """What a product of a few rows is made for.  More rows have more sums under way without parts of them."""
    a, b = (v.type for v in node.operands[:2])
    if target.name == "cuda":
        narrow: dict[str, object] = {} if a.dtype is DType.f32 else {"dtype": str(a.dtype)}
        early = target.overlaps and is_param(node.operands[1], plan)
        m, n, k, *_ = form.sizes
        cut = cut_product(m, n, k, a.dtype, target.overlaps)
        return {**narrow, "rows": rows, "overlap": target.overlaps, "early": early, **cut}
    pairs = target.bf16 and a.dtype is b.dtype is DType.bf16
    parts = 4 if rows == 1 else 2
    return {"rows": rows, "PARTS": parts, "a_dtype": str(a.dtype), "b_dtype": str(b.dtype), "pairs": pairs}


def _blocking(a: TensorType, form: Product, target: Target, template: str) -> dict[str, object]:
    """What a blocked product is made for; those for CUDA and AMX have their blocking in their text."""
    transposed: dict[str, object] = {"trans_a": form.trans_a, "trans_b": form.trans_b}
    if template == "matmul_amx":
        return transposed
    if target.name == "cuda":
        return {"dtype": str(a.dtype), **transposed}
    mr, nr = target.instructions.tile_for(form.sizes[1])
    return {"dtype": str(a.dtype), **transposed, "MR": mr, "NR": nr}


def _access(kind: TensorType, product: TensorType, form: Product) -> str:
    """How the epilogue reads an operand: an element for each of the product, or one a row, a column, in all."""
    if kind.strides is None:
        if kind.shape == product.shape:
            return "full"
        if kind.count == 1:
            return "scalar"
        if kind.count == kind.shape[-1] == product.shape[-1]:
            return "col"
        if kind.shape == (*product.shape[:-1], 1) and form.sizes[6:8] == (1, 1):
            return "row"
    raise InternalError.of(f"the epilogue of a product {product} cannot read {kind}")


def _role(name: str, access: str, stmts: Sequence[Stmt]) -> str:
    """What an operand of the epilogue is called: what it is to the one statement that uses it, or its own name."""
    users = [stmt.fn for stmt in stmts if name in stmt.args]
    return ROLES.get((*users, access), name)


@dataclass(frozen=True)
class Product:
    """A batch of products in the terms of the template: which matrices lie transposed, and all sizes and strides."""

    trans_a: bool
    trans_b: bool
    sizes: tuple[int, ...]
    """In the order of SIZES."""

    @property
    def name(self) -> str:
        return ("t" if self.trans_a else "n") + ("t" if self.trans_b else "n")

    def rows_of_few(self, most: int) -> int:
        """M of a product that is a few, at most `most`, dot products with each row of B; 0 for any other."""
        m, batches = self.sizes[0], self.sizes[6:8]
        return m if m <= most and self.trans_b and not self.trans_a and batches == (1, 1) else 0

    @classmethod
    def of(cls, a: TensorType, b: TensorType, c: TensorType, trans_a: bool, trans_b: bool) -> Product:
        """C = op(a) op(b).  A strided operand decides by its strides whether it counts as transposed."""
        m, n, k = int(c.shape[-2]), int(c.shape[-1]), int(a.shape[-2 if trans_a else -1])
        trans_a, lda = _leading(a, trans_a)
        trans_b, ldb = _leading(b, trans_b)
        lead = list(map(int, c.shape[:-2]))
        batches: list[Strides] = [a.steps[:-2], b.steps[:-2] if b.rank > 2 else (0,) * len(lead), c.steps[:-2]]
        if b.rank == 2 and not trans_a:
            loops, (rows, _) = collapse([*lead, m], [(*batches[0], lda), (*batches[2], n)])
            if len(loops) <= 1:
                m, lead, batches = math.prod([*lead, m]), [], [(), (), ()]
                lda = rows[0] if loops else lda
        sizes, strides = collapse(lead, batches)
        if len(sizes) > 2:
            raise InternalError.of(f"batches of {a} and {b} need more than two loops")
        ones = (1,) * (2 - len(sizes))
        zeros = (0,) * (2 - len(sizes))
        steps = [s for each in strides for s in (*zeros, *each)]
        return cls(trans_a, trans_b, (m, n, k, lda, ldb, n, *ones, *sizes, *steps))


def _leading(kind: TensorType, transposed: bool) -> tuple[bool, int]:
    """Whether the last two axes count as transposed, and the stride between its rows.

    `transposed` says so in terms of the axes; a view whose last axis is not dense is the transpose of what it says.
    """
    (rows, cols), (row_step, col_step) = kind.shape[-2:], kind.steps[-2:]
    if cols == 1 or col_step == 1:
        return transposed, row_step if rows > 1 else int(cols)
    if rows == 1 or row_step == 1:
        return not transposed, col_step
    raise InternalError.of(f"a matrix must be dense along one axis, got {kind}")
