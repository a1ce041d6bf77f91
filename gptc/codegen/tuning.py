"""What may be tuned: the values that a template's header declares, and kernels with others than their defaults.

    tune:   MR in (4, 6, 8); NR in (2 * VEC, 3 * VEC)
    needs:  NR % VEC == 0; MR * NR / VEC + NR / VEC < vector registers; anything in words

`points` lists the combinations that meet those needs which are arithmetic.  `apply` exchanges kernels for those that
were found to be faster; a kernel is known by its `signature_of`, which changes with all that its speed depends on.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gptc.codegen.instructions import InstructionSet
from gptc.codegen.kernel import KernelSpec
from gptc.codegen.program import Program
from gptc.codegen.render import contract, render_kernel
from gptc.codegen.target import Target
from gptc.errors import InternalError

Point = Mapping[str, int]
"""A value for each parameter that may be tuned."""

_RANGE = re.compile(r"(\w+) in (\(.*\))")
_ALLOWED = (
    ast.Expression, ast.Tuple, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


def points(template: str, cpu: InstructionSet) -> list[dict[str, int]]:
    """The combinations that the header of a template, such as `c/matmul.c`, declares for these instructions."""
    declared = contract(template)
    names = {"VEC": cpu.vector, "REGISTERS": cpu.registers}
    ranges: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (p.strip() for p in declared.tune.split(";"))):
        match = _RANGE.fullmatch(part)
        values = _arithmetic(match[2], names) if match else None
        if match is None or not isinstance(values, tuple):
            raise InternalError.of(f"{template}.j2: `tune` has {part!r}, not NAME in (value, value)")
        ranges[match[1]] = values
    if not ranges:
        return []
    needs = [part.strip().replace("vector registers", "REGISTERS") for part in declared.needs.split(";")]
    found = [dict(zip(ranges, values, strict=True)) for values in itertools.product(*ranges.values())]
    return [point for point in found if all(_arithmetic(need, names | point) is not False for need in needs)]


def _arithmetic(text: str, names: Mapping[str, int]) -> object:
    """The value of an expression over numbers and `names`; None where the text is something else."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return None
    if any(not isinstance(n, _ALLOWED) or (isinstance(n, ast.Name) and n.id not in names) for n in ast.walk(tree)):
        return None
    return eval(compile(tree, "tune", "eval"), {"__builtins__": {}}, dict(names))


def default_point(spec: KernelSpec, target: Target) -> Point:
    """The values that a kernel was selected with; none where nothing may be tuned."""
    declared = points(target.template(spec.template), target.instructions)
    return {name: spec.params[name] for name in declared[0]} if declared else {}


def signature_of(spec: KernelSpec, extents: Sequence[tuple[object, ...]], target: Target) -> str:
    """Hash of a kernel's text with default values and of the sizes that it is called with."""
    text = render_kernel(target, spec, ())
    return hashlib.sha256(json.dumps([text, sorted(set(extents))]).encode()).hexdigest()[:32]


def signatures(programs: Sequence[Program], target: Target) -> dict[str, str]:
    """The kernels that may be tuned: name -> signature."""
    sizes: dict[str, list[tuple[object, ...]]] = {}
    specs: dict[str, KernelSpec] = {}
    for call in (call for program in programs for call in program.calls):
        specs[call.kernel.name] = call.kernel
        extents = tuple(a for a in call.arguments if isinstance(a, int | float))
        sizes.setdefault(call.kernel.name, []).append(extents)
    return {
        name: signature_of(spec, sizes[name], target) for name, spec in specs.items() if default_point(spec, target)
    }


def apply(programs: Sequence[Program], target: Target, choices: Mapping[str, Point]) -> list[Program]:
    """The programs with the values chosen for kernels by signature.

    Values that the template does not declare are left alone: the choice was made for another version of it.
    """
    known = signatures(programs, target) if choices else {}
    changed: dict[str, KernelSpec] = {}
    for spec in {call.kernel.name: call.kernel for program in programs for call in program.calls}.values():
        point = choices.get(known.get(spec.name, ""))
        same = point is None or all(spec.params.get(name) == value for name, value in point.items())
        if point is not None and not same and point in points(target.template(spec.template), target.instructions):
            changed[spec.name] = replace(spec, params={**spec.params, **point}, tuned=dict(point))
    return [
        replace(p, calls=tuple(replace(c, kernel=changed.get(c.kernel.name, c.kernel)) for c in p.calls))
        for p in programs
    ]
