"""Which words a model may use as names: they become identifiers of C, C++, CUDA and of expressions."""

from __future__ import annotations

import keyword
import re

from gptc.model.source import quoted

INPUTS = ("tokens", "targets", "positions")
"""Values that every graph starts with."""
PROGRAMS = (
    "tokens", "targets", "positions", "token", "position", "last", "lr", "step", "first", "max_loss", "max_norm",
    "loss_scale", "loss", "losses", "logits", "norm", "clip_scale", "seeds",
)  # fmt: skip
"""Inputs, outputs and state that programs call so: no parameter can."""
BOUND = {"B": "the batch, bound by --batch"}
"""Dims that are bound when a model is compiled."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FILE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYWORDS = """
alignas alignof asm auto bool break case catch char class complex const constexpr continue decltype default delete
do double dynamic_cast else enum explicit export extern false float for friend goto half if imaginary inline int
long mutable namespace new noexcept nullptr operator private protected public register reinterpret_cast requires
restrict return short signed sizeof static static_assert static_cast struct switch template this thread_local throw
true try typedef typeid typename typeof union unsigned using virtual void volatile wchar_t while
"""


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a dim, a parameter or a value; None when it can."""
    if len(name) > 64:
        return f"{quoted(name)} has {len(name)} characters: a name has at most 64"
    if not _WORD.fullmatch(name):
        return f"{quoted(name)} is not a name: letters, digits and _ only, no digit first"
    if name in _KEYWORDS.split() or keyword.iskeyword(name):
        return f"{quoted(name)} is a keyword of C, C++ or Python"
    if name.startswith("__") or re.match(r"_[A-Z]", name):
        return f"{quoted(name)} is reserved by the C standard: no leading __ or _X"
    return None


def file_name_problem(name: str) -> str | None:
    """Why `name` cannot name a model, and with it a folder; None when it can."""
    if _FILE_WORD.fullmatch(name):
        return None
    return f"{quoted(name)} is not a model name: letters, digits and . _ - only, at most 64, no sign first"
