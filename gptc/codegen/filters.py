"""How text and numbers enter C: every name, number and comment of an emitted file passes through here.

Names and comments may stem from a user's model; nothing that they contain can end a comment, start a string,
splice a line or become a token of its own.
"""

from __future__ import annotations

import math
import re

import numpy as np

from gptc.errors import InternalError

WIDTH = 120
"""Most characters of an emitted line that has places to break."""
MAX_NAME = 64
"""C guarantees 63 significant characters; linkers take far more."""

_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef typeof union unsigned void volatile
    while asm near far bool true false nullptr NULL NAN INFINITY VEC vf vfu main linux unix errno stdin stdout
    stderr assert isnan isinf isfinite signbit complex imaginary I M_PI HUGE_VAL
    alignas alignof and and_eq bitand bitor catch class compl const_cast constexpr decltype delete dynamic_cast
    explicit export friend mutable namespace new noexcept not not_eq operator or or_eq private protected public
    reinterpret_cast static_assert static_cast template this thread_local throw try typeid typename using virtual
    wchar_t xor xor_eq threadIdx blockIdx blockDim gridDim warpSize bf16
"""
KEYWORDS = frozenset(_WORDS.split())
"""Words that an emitted name must not be: those of C, C++ and CUDA, and macros of the headers that kernels include."""

_UNSAFE = re.compile(r"""["'#\\@`$]|//|/\*|\*/|[^\x20-\x7e]""")


def c_ident(text: str) -> str:
    """An identifier as much like `text` as C allows.  Different texts may give the same one."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)[:MAX_NAME] or "unnamed"
    if not name[0].isalpha():
        name = f"v{name}"[:MAX_NAME]
    if name.startswith("gptc_"):
        name = f"v{name}"[:MAX_NAME]
    return f"{name}_" if name in KEYWORDS else name


def c_int(value: int) -> str:
    """A whole number that fits `int64_t`."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) < value < 2**63:
        raise InternalError.of(f"not an int64_t: {value!r}")
    return str(int(value))


def c_float(value: float) -> str:
    """A number as a C `float`: the shortest digits that give the same f32."""
    number = float(value)
    if math.isnan(number):
        return "NAN"
    if abs(number) > float(np.finfo(np.float32).max):
        return "INFINITY" if number > 0 else "-INFINITY"
    number = float(np.float32(number))
    if number == int(number) and abs(number) < 1e7:
        return f"{number:.1f}f"
    digits, _, exponent = str(np.float32(number)).partition("e")
    return f"{digits}e{int(exponent)}f" if exponent else f"{digits}f"


def c_comment(text: str) -> str:
    """One line that may stand in a comment of either kind: it neither ends one nor splices the next line to it."""
    line = "".join(c if " " <= c <= "~" else " " if c in "\n\r\t" else "?" for c in text)
    return re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", line).rstrip("\\ ")


def check_code(text: str) -> str:
    """C text made by this package, refused if it holds a quote, a comment, a directive or anything not ASCII."""
    if _UNSAFE.search(text):
        raise InternalError.of(f"not plain C: {text!r}")
    return text
