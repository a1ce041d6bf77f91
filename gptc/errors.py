"""Diagnostics: what went wrong, where, and the one thing to try next.

Every failure a user can cause is a `GptcError` that carries one or more `Diagnostic`s and knows its
exit code.  Anything else that escapes is a bug in gptc.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

LONGEST = 1000
"""Characters of a message."""


@dataclass(frozen=True, order=True)
class Span:
    """A place in a source file.  `line` and `col` count from 1; `width` is in characters."""

    file: str
    line: int
    col: int = 1
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"


@dataclass(frozen=True)
class Diagnostic:
    """One message.  `excerpt` is the source line that `span` points into."""

    message: str
    span: Span | None = None
    hint: str | None = None
    notes: tuple[str, ...] = ()
    excerpt: str | None = None

    def __str__(self) -> str:
        head = f"{self.span}: error: " if self.span else "error: "
        lines = [head + _plain(self.message)]
        if self.span and self.excerpt is not None:
            gutter = f"{self.span.line:5d} | "
            lines.append(gutter + self.excerpt)
            width = max(1, min(self.span.width, len(self.excerpt) + 1 - self.span.col))
            lines.append(" " * (len(gutter) - 2) + "| " + " " * (self.span.col - 1) + "^" * width)
        lines += [f"  {note}" for note in self.notes]
        if self.hint:
            lines.append(f"  help: {self.hint}")
        return "\n".join(lines)


def _plain(message: str) -> str:
    """One line, of which a terminal obeys nothing: a name in it may come from a hostile file."""
    short = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


@dataclass
class GptcError(Exception):
    """A failure with a cause the user can act on.  `code` is the exit code of the command."""

    diagnostics: tuple[Diagnostic, ...] = field(default=())
    code = 1

    @classmethod
    def of(cls, message: str, span: Span | None = None, hint: str | None = None, *notes: str) -> Self:
        """The usual case: one diagnostic."""
        return cls((Diagnostic(message, span, hint, notes),))

    def __str__(self) -> str:
        return "\n".join(str(d) for d in self.diagnostics)


class InputError(GptcError):
    """What the user wrote (a model, data, an option's value) is wrong."""

    code = 1


class UsageError(GptcError):
    """The command line is wrong."""

    code = 2


class ToolMissing(GptcError):
    """A compiler, device or file that the request needs is not there."""

    code = 3


class NumericsError(GptcError):
    """Numbers disagree or are not finite."""

    code = 4


class StorageError(GptcError):
    """Reading or writing failed: permission, full disk, damaged file."""

    code = 5


class InternalError(GptcError):
    """A bug in gptc."""

    code = 70


@contextmanager
def done_for(span: Span | None) -> Iterator[None]:
    """Errors of the block that name no place get `span`: that of the line for which the block does its work."""
    try:
        yield
    except GptcError as error:
        error.diagnostics = tuple(d if d.span else replace(d, span=span) for d in error.diagnostics)
        raise


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, if one is close enough to suggest; capitals count least."""
    candidates = sorted(candidates)
    for same in (each for each in candidates if each.lower() == name.lower()):
        return same
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A hint sentence, or None when nothing is close."""
    match = nearest(name, candidates)
    return f"did you mean {match!r}?" if match else None
