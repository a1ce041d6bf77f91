"""Templates to C text: the one Jinja environment, the templates' contracts, and the law that output keeps.

A template begins with a comment that says what it needs (`templates/README.md`).  A kernel spec must supply
exactly that, and every string in it must be plain C made by this package: text of a user's model reaches a
kernel through `c_ident` or inside a comment, never otherwise, and is never rendered as a template.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import jinja2

from gptc.codegen.filters import WIDTH, c_comment, c_float, c_ident, c_int, check_code
from gptc.codegen.kernel import KernelSpec, Parameter
from gptc.codegen.program import shorten
from gptc.codegen.target import Target
from gptc.errors import InternalError
from gptc.resources import template_dir


@cache
def environment() -> jinja2.Environment:
    """The environment of every template: an undefined name is an error, blocks leave no blank lines."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters.update(c_ident=c_ident, c_int=c_int, c_float=c_float, c_comment=c_comment)
    return made


@dataclass(frozen=True)
class Contract:
    """A template's header: what it is, what it must be given, what may be tuned, what the caller guarantees."""

    kernel: str
    params: tuple[str, ...]
    args: tuple[str, ...]
    """Names of arguments in order; `operands...` stands for any number, `[scratch]` may be missing."""
    tune: str
    needs: str
    line: int
    """Where `params` stands."""

    @property
    def tunable(self) -> tuple[str, ...]:
        """Names of the parameters that `tune` has values for."""
        return tuple(re.findall(r"(\w+) in \(", self.tune))

    def args_of(self, count: int, missing: Collection[str] = ()) -> tuple[str, ...]:
        """The names of `count` arguments, of which those `missing` are none: with the others that may be missing, or
        without them."""
        given = [name for name in self.args if name.strip("[]") not in missing]
        kept = given if count == len(given) else [name for name in given if name[0] != "["]
        return tuple(name.strip("[]") for name in kept)


_COMMENTED = re.compile(r"""( *)([^\s/"'#][^"']*?) +(// .*)""")
_FIELD = re.compile(r"^  (kernel|params|args|tune|needs): *(.*(?:\n {10}.*)*)", re.MULTILINE)


@cache
def contract(template: str) -> Contract:
    """The contract of `templates/<template>.j2`, such as `c/row.c`."""
    path = template_dir() / f"{template}.j2"
    if not path.is_file():
        raise InternalError.of(f"there is no template {template}.j2")
    text = path.read_text(encoding="utf-8")
    head = re.match(r"\{#\n(.*?)\n#\}\n", text, re.DOTALL)
    fields = {m[1]: re.sub(r"\s*\n\s*", " ", m[2]) for m in _FIELD.finditer(head[1])} if head else {}
    if not {"kernel", "params"} <= fields.keys():
        raise InternalError.of(f"{template}.j2:1: begins with no contract: {{# kernel: ... params: ... #}}")
    line = 1 + text[: text.index("params:")].count("\n")

    def names(field: str) -> tuple[str, ...]:
        return tuple(n.strip() for n in fields.get(field, "").split(",") if n.strip() not in ("", "-"))

    tune, needs = fields.get("tune", ""), fields.get("needs", "")
    return Contract(fields["kernel"], names("params"), names("args"), tune, needs, line)


def render(template: str, **params: Any) -> str:
    """`templates/<template>.j2` with `params`, which must be exactly those of its contract."""
    declared = contract(template)
    if extra := sorted(params.keys() ^ set(declared.params)):
        verb = "does not declare" if extra[0] in params else "needs"
        raise InternalError.of(f"{template}.j2:{declared.line}: {verb} the parameter {extra[0]!r}")
    try:
        text = environment().get_template(f"{template}.j2").render(**params)
    except jinja2.TemplateError as error:
        raise InternalError.of(f"{_place(error, template)}: {error}") from error
    return tidy(text)


def cpu_headers(target: Target) -> dict[str, str]:
    """Name -> text of the headers that kernels for a CPU include."""
    support = {"support.h": render("c/support.h", VEC=target.instructions.vector)}
    return support | ({"amx.h": render("c/amx.h")} if target.amx else {})


def cuda_headers() -> dict[str, str]:
    """Path -> text of the headers that every kernel for a GPU includes: templates/cuda/*.cuh.j2."""
    names = sorted(path.name.removesuffix(".j2") for path in (template_dir() / "cuda").glob("*.cuh.j2"))
    return {f"include/{name}": render(f"cuda/{name}") for name in names}


def _place(error: BaseException, template: str) -> str:
    """Template and line that raised `error`."""
    root = str(template_dir())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.name}:{error.lineno}"
    return f"{frames[-1].filename[len(root) + 1 :]}:{frames[-1].lineno}" if frames else f"{template}.j2"


@cache
def identifiers(template: str) -> frozenset[str]:
    """Words of C in a template and the files it extends or may include: names that a spec must not give to anything."""
    text = (template_dir() / f"{template}.j2").read_text(encoding="utf-8")
    tags = re.findall(r"\{% (?:include|extends) (.*?) %\}", text)
    included = re.findall(r'"([\w/.]+)\.j2"', " ".join(tags))
    code = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|//[^\n]*", " ", text, flags=re.DOTALL)
    return frozenset(re.findall(r"[A-Za-z_]\w*", code)).union(*map(identifiers, included))


def tidy(text: str) -> str:
    """The white space every emitted file has: none at the end of a line, one blank line at most, one last newline,
    and comments at the ends of neighbouring lines below each other."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    kept = (b for a, b in zip(["", *lines], lines, strict=False) if a or b)
    return "\n".join(line for _, run in groupby(kept, _depth_of_comment) for line in _aligned(list(run))) + "\n"


def _depth_of_comment(line: str) -> int | None:
    """How far a line is indented whose code a comment follows; None for any other."""
    match = _COMMENTED.fullmatch(line)
    return len(match[1]) if match else None


def _aligned(lines: list[str]) -> list[str]:
    """The comments of neighbours in one column, where that leaves room for them."""
    matches = [match for line in lines if (match := _COMMENTED.fullmatch(line))]
    width = max((len(match[2]) for match in matches), default=0)
    found = [f"{match[1]}{match[2]:{width}} {match[3]}" for match in matches]
    return found if found and max(map(len, found)) <= WIDTH else lines


def render_kernel(target: Target, spec: KernelSpec, header: Sequence[str]) -> str:
    """The source of one kernel, its provenance (`header`) in comments above it."""
    template = target.template(spec.template)
    declared = contract(template)
    _check_args(template, declared, spec.signature)
    supplied: dict[str, Any] = {
        "name": c_ident(spec.name),
        "header": [c_comment(line) for line in header],
        "signature": signature_lines(spec.signature),
        "arguments": [p.name for p in spec.signature],
    }
    for value in spec.params.values():
        _check(value)
    return render(template, **{n: v for n, v in supplied.items() if n in declared.params}, **spec.params)


def _check(value: Any) -> None:
    """Every string inside a parameter is plain C."""
    if isinstance(value, str):
        check_code(value)
    elif isinstance(value, Mapping):
        for item in (*value.keys(), *value.values()):
            _check(item)
    elif isinstance(value, Iterable):
        for item in value:
            _check(item)


def _check_args(template: str, declared: Contract, signature: Sequence[Parameter]) -> None:
    """The spec's signature has the arguments that the template spells, in order."""
    pattern = "".join(map(_arg_pattern, declared.args))
    given = "".join(f"{p.name}," for p in signature)
    if not re.fullmatch(pattern, given):
        raise InternalError.of(f"{template}.j2: takes ({', '.join(declared.args)}), the spec has ({given.rstrip(',')})")


def _arg_pattern(name: str) -> str:
    if name.endswith("..."):
        return r"(?:\w+,)*?"
    return f"(?:{name.strip('[]')},)?" if name[0] == "[" else f"{name},"


def signature_lines(signature: Sequence[Parameter]) -> list[str]:
    """A C argument list: tensors one a line with their shapes, then the integers."""
    tensors = [p for p in signature if "*" in p.ctype]
    numbers = [p for p in signature if "*" not in p.ctype]
    last = signature[-1] if signature else None
    heads = [f"{p.ctype}{p.name}{'' if p is last else ','}" for p in tensors]
    width = max(map(len, heads), default=0)
    commented = (f"{h:{width}s} // {p.comment}" if p.comment else h for h, p in zip(heads, tensors, strict=True))
    lines = [shorten(line, WIDTH - 4) for line in commented]
    row = ""
    for p in numbers:
        word = f"{p.ctype} {p.name}{'' if p is last else ','}"
        if row and len(row) + len(word) > WIDTH - 5:
            lines.append(row)
            row = ""
        row = f"{row} {word}" if row else word
    return [*lines, row] if row else lines
