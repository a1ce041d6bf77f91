"""A softmax beside its log-sum-exp: one exponential, the same values."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.codegen.exponentials import share
from gptc.ir.body import Body, body, evaluate
from gptc.ir.compose import dedupe

LSE = "max = row_max(k)\nlse = max + log(row_sum(exp(k - max)))\n"
MASK = "k = where(lt(col(), 5), x, -inf)\n"
SHARED = {
    "plain": ("x", "k = copy(x)\n" + LSE + "p = exp(k - lse)\ny = 2 * p"),
    "masked": ("x", MASK + LSE + "y = where(lt(col(), 5), exp(x - lse), 0)"),
    "a name that is taken": ("x t3_inverse", "k = copy(x)\n" + LSE + "y = t3_inverse * exp(k - lse)"),
}
KEPT = {
    "another mask": MASK + LSE + "y = where(lt(col(), 6), exp(x - lse), 0)",
    "something else where it hides": MASK + LSE + "y = where(lt(col(), 5), exp(x - lse), 1)",
    "no mask": MASK + LSE + "y = exp(x - lse)",
    "another maximum": "k = copy(x)\nlse = 1 + log(row_sum(exp(k - row_max(k))))\ny = exp(k - lse)",
    "no logarithm": "k = copy(x)\nmax = row_max(k)\nlse = max + row_sum(exp(k - max))\ny = exp(k - lse)",
}


def exponentials(code: Body) -> int:
    """How many are used."""
    live = {*code.outputs}
    for stmt in reversed(code.stmts):
        if stmt.result in live:
            live |= {a for a in stmt.args if isinstance(a, str)}
    return sum(s.fn == "exp" and s.result in live for s in code.stmts)


@pytest.mark.parametrize("case", SHARED)
def test_shared(case: str) -> None:
    inputs, text = SHARED[case]
    code = dedupe(body(inputs, "y lse", text))
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal((3, 8)) for _ in code.inputs]
    found = share(code)
    assert (exponentials(code), exponentials(found)) == (2, 1)
    for one, other in zip(evaluate(found, operands, (3, 8)), evaluate(code, operands, (3, 8)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    code = dedupe(body("x", "y", KEPT[case]))
    assert share(code) == code
