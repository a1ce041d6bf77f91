"""Calls of kernels whose template alone decides their text: the arguments are those that its contract names."""

from __future__ import annotations

from collections.abc import Collection

from gptc.codegen.kernel import Argument, Call, Element, KernelSpec, Parameter, Scratch
from gptc.codegen.operands import ctype
from gptc.codegen.render import contract
from gptc.codegen.target import Target
from gptc.errors import InternalError
from gptc.ir.graph import Node

Params = dict[str, object]


def fixed_call(
    node: Node, target: Target, arguments: tuple[Argument, ...], params: Params | None = None, stem: str = "",
    template: str = "", missing: Collection[str] = (),
) -> Call:  # fmt: skip
    """A call of a template that names its arguments in its contract; optional ones, but for those that are `missing`,
    are there all or none."""
    kernel = node.op.kernel or ""
    template = template or kernel
    args = contract(target.template(template)).args_of(len(arguments), missing)
    if len(args) != len(arguments):
        raise InternalError.of(f"{template} takes {len(args)} arguments, got {len(arguments)}")
    results = {id(v) for v in node.results}
    signature = tuple(Parameter(name, _ctype(value, results)) for name, value in zip(args, arguments, strict=True))
    return Call(node, KernelSpec(template, stem or kernel, params or {}, signature), arguments)


def _ctype(argument: Argument, results: set[int]) -> str:
    if isinstance(argument, int | float):
        return "int64_t" if isinstance(argument, int) else "float"
    if isinstance(argument, tuple):
        if isinstance(argument[0], int):
            return "const int64_t *"
        kind = ctype(argument[0].type.dtype)
        return f"{kind} *const *" if id(argument[0]) in results else f"const {kind} *const *"
    if isinstance(argument, Scratch):
        return "void *"
    value = argument.value if isinstance(argument, Element) else argument
    kind = ctype(value.type.dtype)
    return f"{kind} *" if id(value) in results else f"const {kind} *"
