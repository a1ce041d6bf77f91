"""What is emitted: kernels (a template with its parameters) and the calls that a program makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gptc.ir.graph import Node, Value


def ceil_div(n: int, size: int) -> int:
    """How many pieces of `size` it takes to cover n."""
    return -(-n // size)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an emitted function.  `comment` is its shape or meaning, such as `(rows, cols)`."""

    name: str
    ctype: str
    """`const float *`, `float *`, `const int32_t *`, `int64_t`, `float`."""
    comment: str = ""

    @property
    def declared(self) -> str:
        """`const float *x`, as a prototype has it."""
        return f"{self.ctype} {self.name}".replace("* ", "*")


@dataclass(frozen=True)
class KernelSpec:
    """A kernel to emit: equal specs are one kernel, whatever layers use it."""

    template: str
    """Base name of the template, `row` for `templates/<target>/row.c.j2`."""
    stem: str
    """What it computes, for people: `row_layer_norm`, `gemm_nt_bias_gelu`."""
    params: Mapping[str, Any]
    """What the template's contract names; JSON values only."""
    signature: tuple[Parameter, ...]
    tuned: Mapping[str, int] = field(default_factory=dict)
    """Those of `params` that `gptc tune` chose."""

    @cached_property
    def digest(self) -> str:
        """Content hash: everything that decides the emitted text below the header comment."""
        signature = [(p.name, p.ctype, p.comment) for p in self.signature]
        text = json.dumps([self.template, self.stem, dict(self.params), signature], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The emitted function: the stem, and enough of the hash to be unique."""
        return f"{self.stem}_{self.digest[:6]}"


@dataclass(frozen=True)
class Element:
    """The address of one element of a tensor: a part of it that a kernel takes as an argument of its own."""

    value: Value
    index: int
    """Counted in elements from the tensor's first."""


@dataclass(frozen=True)
class Scratch:
    """The address of memory that a call has to itself while it runs, such as for partial sums."""

    size: int
    """In bytes."""


Argument = Value | Element | Scratch | tuple[Value, ...] | tuple[int, ...] | int | float
"""A call's argument: a tensor's address, an address inside it, that of scratch memory, an array of addresses or of
integers, or a number."""


@dataclass(frozen=True)
class Call:
    """One kernel call of a program; `arguments` match the kernel's signature."""

    node: Node
    kernel: KernelSpec
    arguments: tuple[Argument, ...]
    note: str = ""
    """Why this kernel serves and not a faster one."""

    @property
    def scratch(self) -> int:
        """Bytes of scratch memory; a call takes one piece at most."""
        return next((a.size for a in self.arguments if isinstance(a, Scratch)), 0)
