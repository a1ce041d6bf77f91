"""A model file as text: read once with caps, and able to say where anything stands."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gptc.errors import Diagnostic, InputError, Span, StorageError, nearest

MAX_BYTES = 1 << 20
"""Largest model file.  The shipped ones are near 3 KB."""
MAX_EXCERPT = 160
"""Characters of a source line that a message shows."""
MAX_ERRORS = 20
"""Mistakes reported at once."""


@dataclass(frozen=True)
class Source:
    """The text of a file and the name it has in messages."""

    file: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line) + 1)
        return starts

    def span(self, start: int, end: int) -> Span:
        """The place of `text[start:end]`, cut at the end of its first line."""
        line = bisect.bisect_right(self._starts, start, hi=len(self.lines)) - 1
        col = start - self._starts[line]
        width = min(end - start, len(self.lines[line]) - col)
        return Span(self.file, line + 1, col + 1, max(1, width))

    def excerpt(self, span: Span) -> str | None:
        """The line that `span` points into, cut when it is long; None when `span` lies behind the cut."""
        line = self.lines[span.line - 1] if span.line <= len(self.lines) else ""
        line = _FORBIDDEN.sub("\ufffd", line)
        return line[:MAX_EXCERPT] if len(line) <= MAX_EXCERPT or span.col < MAX_EXCERPT else None


_FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]")
"""Control characters, tabs, line ends that editors do not show, and marks that reorder text."""


def read_source(path: Path) -> Source:
    """Read and decode a model file; InputError for anything that is not plain UTF-8 text of a sane size."""
    file = display_name(path)
    data = _read(path, file)
    if len(data) > MAX_BYTES:
        raise InputError.of(f"{file} is larger than {MAX_BYTES >> 20} MiB: not a model file")
    for mark, name in ((b"\xef\xbb\xbf", "a UTF-8"), (b"\xff\xfe", "a UTF-16"), (b"\xfe\xff", "a UTF-16")):
        if data.startswith(mark):
            raise InputError.of(f"{file} begins with {name} byte order mark", None, "save it as plain UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError.of(f"byte {error.start} is not UTF-8", Span(file, line), "save it as plain UTF-8") from None
    source = Source(file, text.replace("\r\n", "\n"))
    if bad := _FORBIDDEN.search(source.text):
        report = Report(source)
        hint = "indent with spaces" if bad[0] == "\t" else None
        name = "a tab" if bad[0] == "\t" else f"the character U+{ord(bad[0]):04X}"
        report.error(f"{name} is not allowed in a model file", source.span(bad.start(), bad.end()), hint)
        report.check()
    return source


def display_name(path: Path) -> str:
    """The path as messages and emitted comments show it: never absolute."""
    if not path.is_absolute():
        return path.as_posix()
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _read(path: Path, file: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = path.parent.glob("*.yaml") if path.parent.is_dir() else []
        close = nearest(path.stem, (p.stem for p in siblings))
        hint = f"did you mean {f'{close}.yaml'!r}?" if close else None
        raise InputError.of(f"no model file {file!r}", None, hint) from None
    except IsADirectoryError:
        raise InputError.of(f"{file!r} is a folder, not a model file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageError.of(f"cannot read {file!r}: {reason}") from None


class Consequence(Exception):
    """Something uses a name whose own definition has a mistake: that one is reported, what follows from it is not."""


class Report:
    """Collects the mistakes of a model so that all of them can be shown at once."""

    def __init__(self, *sources: Source) -> None:
        self._sources = {s.file: s for s in sources}
        self._found: dict[tuple[Span | None, str], Diagnostic] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def full(self) -> bool:
        """True when looking for more mistakes would help nobody."""
        return len(self._found) >= MAX_ERRORS

    def error(self, message: str, span: Span | None, hint: str | None = None, *notes: str) -> None:
        self.add(Diagnostic(message, span, hint, notes))

    def add(self, diagnostic: Diagnostic) -> None:
        """Record a diagnostic with the source line it points into; the same one twice counts once."""
        span = diagnostic.span
        if self.full:
            return
        if span and span.file in self._sources:
            source = self._sources[span.file]
            diagnostic = replace(diagnostic, excerpt=source.excerpt(span))
        self._found.setdefault((span, diagnostic.message), diagnostic)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Record the InputError that the block raises, and go on after it."""
        try:
            yield
        except Consequence:
            pass
        except InputError as error:
            for diagnostic in error.diagnostics:
                self.add(diagnostic)

    def check(self) -> None:
        """Raise everything found so far, in the order of the file."""
        if self._found:
            found = sorted(self._found.values(), key=lambda d: d.span or Span("", 0))
            if self.full:
                found.append(Diagnostic(f"stopped after {MAX_ERRORS} errors"))
            raise InputError(tuple(found))


def quoted(text: str) -> str:
    """User text inside a message: quoted, escaped and at most 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
