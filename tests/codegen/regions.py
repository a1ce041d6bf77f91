"""Regions that stress each template: strides, broadcasts, sizes around a work item's, several results, odd names."""

from __future__ import annotations

from gptc.ir.body import Body, body
from gptc.ir.graph import Node
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.embedding import Embedding
from gptc.ir.ops.optimizer import GlobalNorm
from gptc.ir.ops.region import Column, Gemm, Map, Row
from tests.codegen.native import TARGET, apply, region

ITSELF = Body(("x",), (), ("x",))
ACC = Body(("acc",), (), ("acc",))
MAPS = {
    "two results": region(Map, body("a b", "s d", "s = a + b\nd = a - b"), "f32[3,5]", "f32[3,5]"),
    "results over broadcasts": region(Map, body("a b", "s d", "s = a + b\nd = s * b"), "f32[6,7]", "f32[6,1]"),
    "across work items": region(Map, body("a b", "y", "y = tanh(a) * b"), "f32[40000]", "f32[]"),
    "long rows": region(Map, body("a b", "y", "y = a * b"), "f32[3,20000]", "f32[20000]"),
    "permuted": region(Map, body("x", "y", "y = copy(x)"), "f32[2,3,5,4]{60,4,12,1}"),
    "transposed": region(Map, ITSELF, "f32[7,5]{1,7}"),
    "flipped": region(Map, body("x y", "z", "z = x + y"), "f32[3,2,20]{40,-20,1}", "f32[3,2,20]"),
    "backwards": region(Map, body("x y", "z", "z = x + y"), "f32[4,6]{6,-1}", "f32[6]{-1}"),
    "every second": region(Map, ITSELF, "f32[4,6]{24,2}"),
    "repeated": region(Map, body("x y", "z", "z = x + y"), "f32[4,3,6]{0,6,1}", "f32[4,1,6]"),
    "deep": region(Map, body("x y", "z", "z = x * y"), "f32[2,3,2,3,2]{108,18,54,2,1}", "f32[2,1,2,1,2]"),
    "positions": region(Map, body("x", "y", "y = x + row() * 10 + col()"), "f32[2,3,4]"),
    "counts": region(Map, body("", "y", "y = col() * 2 + 1"), dtypes=("i32",), shape=(9,)),
    "fill": region(Map, body("", "y", "y = copy(0.25)"), shape=(3, 4)),
    "one element": region(Map, body("x y", "z", "z = x / y"), "f32[1,1]", "f32[]"),
    "to bf16": region(Map, body("x", "y", "y = round_bf16(x * 3)"), "f32[300]", dtypes=("bf16",)),
    "from bf16": region(Map, body("x y", "z", "z = x * y"), "bf16[4,5]", "bf16[5]"),
    "from i8": region(Map, body("x s", "y", "y = x * s"), "i8[4,35]", "f32[4,1]"),
    "whole numbers": region(Map, body("i x", "y", "y = where(eq(i, 2), x, i / 2)"), "i32[4,5]", "f32[5]"),
    "nested": region(
        Map, body("a b c", "y", "y = a - (b - c) - -a * (b / (c * c + 1)) / (a * a + 1) - -(-b)"), *["f32[50]"] * 3
    ),
    "conditions": region(
        Map,
        body(
            "a b",
            "y",
            "p = where(le(b, 0), a, b)\nq = where(eq(a, a), maximum(a, b), minimum(a, 2))\ny = where(lt(a, b), p, q)",
        ),
        *["f32[99]"] * 2,
    ),
    "unused operand": region(Map, body("a b", "y", "y = abs(b) + sign(b)"), "f32[3,4]", "f32[3,4]"),
    "same result twice": region(Map, Body(("a",), body("a", "y", "y = exp(a)").stmts, ("y", "y", "a")), "f32[17]"),
}

NORM = "mean = row_mean(x)\nd = x - mean\nrstd = rsqrt(row_mean(d * d) + 0.00001)\ny = d * rstd * w + b"
ROWS = {
    "residual and norm": region(
        Row, body("a c w b", "x y mean rstd", f"x = a + c\n{NORM}"), "f32[5,37]", "f32[5,37]", "f32[37]", "f32[37]"
    ),
    "positions add up": region(Row, body("x p", "y", "y = (x + p) / row_sum(exp(x + p))"), "f32[3,4,10]", "f32[4,10]"),
    "one for each batch": region(Row, body("x p", "y", "y = x * p - row_max(x)"), "f32[3,4,10]", "f32[3,1,10]"),
    "one a position": region(Row, body("x p", "y", "y = x * p - row_max(x)"), "f32[3,4,10]", "f32[4,1]"),
    "checkered": region(Row, body("x p", "y", "y = x * p - row_sum(x)"), "f32[2,3,4,5]", "f32[2,1,4,1]"),
    "strided rows": region(Row, body("x", "y", "y = x - row_max(x)"), "f32[2,3,4,6]{72,6,18,1}"),
    "every second element": region(Row, body("x", "y", "y = x - row_max(x)"), "f32[3,6]{12,2}"),
    "two values kept": region(
        Row,
        body("x", "y", "e = exp(x)\nt = tanh(x)\ns = row_sum(e)\nm = row_max(t * s)\ny = e / s + t / m"),
        "f32[4,33]",
    ),
    "a kept value within another": region(
        Row, body("x", "y", "s = sigmoid(x)\ne = exp(s)\ny = e / row_sum(e) + s * row_mean(s)"), "f32[4,33]"
    ),
    "numbers only": region(Row, body("x", "m s", "m = row_max(x)\ns = m + log(row_sum(exp(x - m)))"), "f32[7,50]"),
    "a number spread out": region(Row, body("x w", "y", "y = w * row_sum(x)"), "f32[7,50]", "f32[50]"),
    "one column": region(Row, body("x w", "y s", "s = row_sum(x)\ny = x * w"), "f32[7,1]", "f32[1]"),
    "one row": region(Row, body("x", "y", "y = x / row_sum(abs(x))"), "f32[70]"),
    "sum of what does not vary": region(
        Row, body("x c", "y", "y = x + row_sum(c) + row_sum(0.5)"), "f32[3,9]", "f32[3,1]"
    ),
    "hidden entries": region(
        Row,
        body("x", "y", "k = where(le(col(), row()), x, -inf)\ne = exp(k - row_max(k))\ny = e / row_sum(e)"),
        "f32[2,9,9]",
    ),
    "many rows": region(Row, body("x w b", "y mean rstd", NORM), "f32[300,64]", "f32[64]", "f32[64]"),
}

COLUMNS = {
    "norm gradients": region(
        Column,
        body("dy x mean rstd", "dw db", "dw = dy * ((x - mean) * rstd)\ndb = copy(dy)"),
        "f32[3,7,70]",
        "f32[3,7,70]",
        "f32[3,7,1]",
        "f32[3,7,1]",
    ),
    "many rows": region(Column, body("x", "y", "y = x * x"), "f32[600,65]"),
    "two axes kept": region(Column, body("x w p", "y", "y = x * w + p"), "f32[4,5,6]", "f32[6]", "f32[5,1]", keep=2),
    "all": region(Column, body("x", "y", "y = x * 0.01"), "f32[40000]", keep=0),
    "all of rows": region(
        Column, body("x w s", "y z", "y = x * w\nz = x + s"), "f32[3,20000]", "f32[20000]", "f32[3,1]", keep=0
    ),
    "one column": region(Column, ITSELF, "f32[500,1]"),
    "one row": region(Column, ITSELF, "f32[1,33]"),
    "positions": region(Column, body("x", "y", "y = x * row() + col()"), "f32[4,5,6]", keep=2),
    "strided": region(Column, ITSELF, "f32[4,5,6]{6,24,1}"),
}

GELU = body("acc b r", "h y", "h = acc + b\ny = gelu(h) * r")
GEMMS = {
    "epilogue": region(Gemm, GELU, "f32[2,3,40]", "f32[50,40]", "f32[50]", "f32[2,3,50]", trans_b=True),
    "a number a row": region(Gemm, body("acc s", "y", "y = acc * s"), "f32[2,3,4]", "f32[4,5]", "f32[2,3,1]"),
    "a number": region(Gemm, body("acc s", "y", "y = acc * s * 0.5"), "f32[2,3,4]", "f32[2,4,5]", "f32[]"),
    "heads": region(Gemm, ACC, "f32[2,3,5,4]{60,4,12,1}", "f32[2,3,5,4]{60,4,12,1}", trans_b=True),
    "transposed by strides": region(Gemm, ACC, "f32[6,7]{1,6}", "f32[7,9]{1,7}"),
    "transposed twice": region(Gemm, ACC, "f32[7,6]{1,7}", "f32[7,9]", trans_a=True),
    "columns of a wider one": region(Gemm, ACC, "f32[3,4,5]{80,20,1}", "f32[5,6]{30,1}"),
    "names that clash": region(
        Gemm, body("acc a lda acc_out", "sum", "sum = acc + a * lda - acc_out"), "f32[4,3]", "f32[3,5]", *["f32[5]"] * 3
    ),
}
FEW = body("acc b r", "h y", "h = acc * b\ny = gelu(h) + r")
"""An epilogue of a few rows; `b` is what scales columns of whole numbers."""
GEMMS |= {
    f"{rows} rows of {k} {a} by {n} of {b}": region(
        Gemm,
        FEW,
        f"{a}[{rows},1,{k}]",
        f"{b}[{n},{k}]",
        f"f32[{n}]",
        f"{a}[{rows},1,{n}]",
        trans_b=True,
        dtypes=("f32", a),
    )
    for a, b in (("f32", "f32"), ("bf16", "bf16"), ("f32", "i8"))
    for rows, n, k in ((1, 37, 211), (2, 1, 70), (3, 16, 1), (4, 65, 33))
}
if TARGET.bf16:
    GEMMS |= {
        "bf16 epilogue": region(
            Gemm, GELU, "bf16[2,3,41]", "bf16[50,41]", "bf16[50]", "bf16[2,3,50]", trans_b=True, dtypes=("bf16", "f32")
        ),
        "bf16 heads": region(Gemm, ACC, "bf16[2,3,5,4]{60,4,12,1}", "bf16[2,3,5,4]{60,4,12,1}", trans_b=True),
        "bf16 transposed by strides": region(Gemm, ACC, "bf16[6,7]{1,6}", "bf16[7,9]{1,7}", dtypes=("bf16",)),
    }

OTHERS = {
    "packed gradients": apply(
        AttentionGrad(scale=0.5, causal=True, packed=True),
        "f32[2,4,6,4]{96,4,16,1}",
        *["f32[2,4,6,4]{192,4,32,1}"] + ["f32[2,2,6,4]{192,4,32,1}"] * 2,
        "f32[2,4,6,4]",
        "f32[2,4,6]",
    ),
    "merged heads": apply(Attention(scale=0.5, causal=True, merged=True), *["f32[2,3,70,8]{5040,8,72,1}"] * 3),
    "heads in bf16": apply(Attention(scale=0.5, causal=True, merged=True), *["bf16[2,3,70,8]{5040,8,72,1}"] * 3),
    "rows of i8": apply(Embedding(), "i8[9,35]", "i32[3,2]"),
    "rows of bf16": apply(Embedding(), "bf16[9,35]", "i32[3,2]"),
    "many norms": apply(GlobalNorm(), *["f32[]"] * 150),
}

REGIONS: dict[str, Node] = {
    f"{kind}: {name}": node
    for kind, group in (("map", MAPS), ("row", ROWS), ("column", COLUMNS), ("gemm", GEMMS), ("other", OTHERS))
    for name, node in group.items()
}
