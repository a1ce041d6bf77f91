"""Contracts of templates, and that no name, number or comment can become code."""

from __future__ import annotations

import os
import random
import re
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from gptc.codegen import render as rendering
from gptc.codegen.filters import KEYWORDS, c_comment, c_float, c_ident, c_int, check_code
from gptc.codegen.kernel import Call, KernelSpec, Parameter
from gptc.codegen.provenance import provenance
from gptc.codegen.render import contract, render, render_kernel
from gptc.codegen.select import SELECTORS, select
from gptc.codegen.stems import stem
from gptc.codegen.target import Target
from gptc.compiler import emit_model, plan
from gptc.errors import InternalError, Span
from gptc.ir.body import body
from gptc.ir.graph import Node, Value
from gptc.ir.ops.embedding import Embedding
from gptc.ir.ops.region import Map
from gptc.request import Request
from gptc.resources import models_dir, template_dir
from tests.codegen.native import TARGET, apply, region
from tests.codegen.regions import REGIONS
from tests.conftest import TINY

ALPHABET = string.ascii_letters + string.digits + "_" * 8 + "\"'\\/*#?\n\r\t\0 .;{}()%é\u2028\U0001f600"
FIRST = Span("models/a.yaml", 31, 7)


def hostile(rng: random.Random) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, 80)))


def two_results(kind: str, *parts: str) -> Node:
    """s = a + b, d = a - b."""
    return region(Map, body("a b", "s d", "s = a + b\nd = a - b"), kind, kind, parts=parts)


def test_names_cannot_become_code() -> None:
    """20 000 hostile texts: each becomes one identifier that is no keyword, each comment stays one line."""
    rng = random.Random(5)
    for text in (*(hostile(rng) for _ in range(20_000)), *KEYWORDS, "", "9", "_Bool", "__x", "gptc_step", "x" * 300):
        name = c_ident(text)
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,64}", name), (text, name)
        assert name not in KEYWORDS
        assert not name.startswith("gptc_")
        line = c_comment(text)
        assert re.fullmatch(r"[ -~]*", line), (text, line)
        assert "*/" not in line
        assert "/*" not in line
        assert "??" not in line
        assert not line.endswith("\\")


@pytest.mark.parametrize(
    "text", ['"x"', "'a'", "a // b", "/* a", "b */", "#include", "a\nb", "a\\", "é", "`", "@", "$x", "\0"]
)
def test_code_is_checked(text: str) -> None:
    with pytest.raises(InternalError, match="not plain C"):
        check_code(text)
    spec = KernelSpec("sum_squares", "s", {"deep": [{"in": [text]}]}, ())
    with pytest.raises(InternalError):
        render_kernel(TARGET, spec, [])


def test_hostile_header_and_names_change_no_token() -> None:
    """A kernel whose provenance and names are hostile has the tokens of the harmless one."""
    rng = random.Random(6)
    node = two_results("f32[3,5]")
    call = select(node, TARGET)
    assert call is not None
    clean = re.sub(r"^//.*\n", "", render_kernel(TARGET, call.kernel, ["plain"]), flags=re.MULTILINE)
    for _ in range(300):
        text = render_kernel(TARGET, call.kernel, [hostile(rng), hostile(rng)])
        assert re.sub(r"^//.*\n", "", text, flags=re.MULTILINE) == clean
        assert c_ident(stem(replace(node, op=replace(node.op, parts=(f"op{hostile(rng)}",)))))  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [True, 1.5, "1", 2**63, -(2**63), None])
def test_integers_are_checked(value: object) -> None:
    with pytest.raises(InternalError):
        c_int(value)  # type: ignore[arg-type]


def test_filters_in_templates() -> None:
    filters = rendering.environment().filters
    assert [filters[n] for n in ("c_ident", "c_int", "c_float", "c_comment")] == [c_ident, c_int, c_float, c_comment]
    assert rendering.environment().undefined is jinja2.StrictUndefined


@pytest.mark.parametrize("name", sorted(SELECTORS))
def test_every_kernel_has_a_contract(name: str) -> None:
    template = {"gemm": "matmul"}.get(name, name)
    found = contract(f"c/{template}.c")
    assert found.kernel.split()[0] == template
    assert {"name", "header"} <= set(found.params)
    assert found.args


@pytest.mark.parametrize("name", REGIONS)
def test_emitted_text(name: str) -> None:
    """White space is tidy, the same spec gives the same text, and a missing or extra parameter is an error."""
    call = select(REGIONS[name], TARGET)
    assert call is not None
    spec, template = call.kernel, f"c/{call.kernel.template}.c"
    text = render_kernel(TARGET, spec, provenance([("step", call)], {}, TARGET))
    assert text == render_kernel(TARGET, select(REGIONS[name], TARGET).kernel, provenance([("step", call)], {}, TARGET))  # type: ignore[union-attr]
    assert not re.search(r"[ \t]$|\n\n\n|\t|\A\n|\n\n\Z", text, re.MULTILINE)
    assert text.endswith("}\n")
    assert f"void {spec.name}(" in text
    assert len(spec.signature) == len(call.arguments)
    with pytest.raises(InternalError, match=rf"{template}\.j2:\d+: does not declare the parameter 'extra'"):
        render_kernel(TARGET, replace(spec, params={**spec.params, "extra": 1}), [])
    if spec.params:
        first = min(spec.params)
        fewer = {k: v for k, v in spec.params.items() if k != first}
        with pytest.raises(InternalError, match=rf"{template}\.j2:\d+: needs the parameter '{first}'"):
            render_kernel(TARGET, replace(spec, params=fewer), [])


def test_mistakes_in_templates_have_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bad.c.j2").write_text("{#\n  kernel: bad  wrong\n  params: x\n#}\n{{ x }}\n{{ y }}\n")
    (tmp_path / "c" / "worse.c.j2").write_text("{#\n  kernel: worse  wrong\n  params: -\n#}\n\n{% endif %}\n")
    (tmp_path / "c" / "none.c.j2").write_text("void f(void);\n")
    monkeypatch.setattr(rendering, "template_dir", lambda: tmp_path)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path), undefined=jinja2.StrictUndefined)
    monkeypatch.setattr(rendering, "environment", lambda: environment)
    for template, params, message in (
        ("c/bad.c", {"x": 1}, r"c/bad\.c\.j2:6: 'y' is undefined"),
        ("c/worse.c", {}, r"c/worse\.c\.j2:6: .*endif"),
        ("c/none.c", {}, r"c/none\.c\.j2:1: begins with no contract"),
        ("c/missing.c", {}, r"no template c/missing\.c\.j2"),
    ):
        with pytest.raises(InternalError, match=message):
            render(template, **params)


def _lone(node: Node, target: Target) -> Call:
    """A call of a kernel that no template is for; nothing asks for its contract before it is rendered."""
    return Call(node, KernelSpec("lone", "lone", {}, ()), ())


@pytest.mark.parametrize("fixed", [True, False])
def test_a_missing_template_has_the_line_of_the_model(
    fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fixed:
        monkeypatch.setattr(Embedding, "kernel", "lone")
    else:
        monkeypatch.setitem(SELECTORS, "embedding", _lone)
    with pytest.raises(InternalError) as caught:
        emit_model(plan(Request(TINY)), tmp_path, {})
    (found,) = caught.value.diagnostics
    assert found.message == "there is no template c/lone.c.j2"
    assert str(found.span).endswith("tiny.yaml:17:6")


def test_arguments_are_checked_against_the_contract() -> None:
    node = apply(type(REGIONS["other: many norms"].op)(), "f32[]")
    spec = select(node, TARGET).kernel  # type: ignore[union-attr]
    for signature in (spec.signature[::-1], spec.signature[:-1], (*spec.signature, Parameter("more", "int64_t"))):
        with pytest.raises(InternalError, match="takes"):
            render_kernel(TARGET, replace(spec, signature=signature), [])


def test_layers_share_a_kernel() -> None:
    """Shapes are arguments: the same region over other sizes, places and value names is the same kernel."""
    one = two_results("f32[3,5]")
    other = replace(two_results("f32[8,9]"), origin="h.1", span=FIRST)
    renamed = replace(other, operands=tuple(Value(f"h.1.{v.name}", v.type) for v in other.operands))
    calls = [select(n, TARGET) for n in (one, other, renamed)]
    assert len({c.kernel.name for c in calls if c}) == 1
    assert calls[1] is not None
    assert calls[1].arguments[-1] == 72


def test_provenance() -> None:
    node = two_results("f32[1000,500]", "add models/a.yaml:2", "sub models/a.yaml:2")
    node = replace(node, span=Span("models/a.yaml", 2))
    call = select(node, TARGET)
    assert call is not None
    calls = [("step", call), ("step", call), ("evaluate", call)]
    assert provenance(calls, {"models/a.yaml": "graph:\n  y: a + b - c */\n"}, TARGET) == [
        f"{call.kernel.name}: 3 calls (2 in step, 1 in evaluate)",
        "  models/a.yaml:2  y: a + b - c * /",
        "  computes  add: y = a + b",
        "            sub: y = a - b",
        "  moves     8.0 MB, 1.0 Mflop in its first call",
        "  template  templates/c/map.c.j2",
    ]
    assert call.kernel.name.startswith("map_add_sub_")


def test_same_text_for_any_hash_seed(tmp_path: Path) -> None:
    code = (
        "from tests.codegen.regions import REGIONS\nfrom tests.codegen.native import TARGET\n"
        "from gptc.codegen.select import select\nfrom gptc.codegen.render import render_kernel\nimport hashlib\n"
        "text = ''.join(render_kernel(TARGET, select(n, TARGET).kernel, []) for n in REGIONS.values())\n"
        "print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    root = Path(__file__).parents[2]
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PATH": os.environ["PATH"], "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(seen) == 1


def test_resources_are_found() -> None:
    assert (template_dir() / "c" / "map.c.j2").is_file()
    assert models_dir().name == "models"
