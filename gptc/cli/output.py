"""What a command says: tables and lines for people, one JSON object for programs, progress for the patient."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

INTERVAL = 5.0
"""Seconds between two lines of progress where there is no terminal."""


FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


class Output:
    """People's text goes to stdout, or to stderr beside `--json`; progress always goes to stderr."""

    def __init__(self, as_json: bool = False, silent: bool = False, aside: bool = False) -> None:
        """`silent` says nothing at all: another process says the same.  `aside` keeps stdout for what is made."""
        self.as_json = as_json and not silent
        self.console = Console(stderr=as_json or aside, highlight=False, soft_wrap=True, quiet=silent)
        if not self.console.is_terminal:
            self.console.width = FILE_WIDTH
        self.progress = Console(stderr=True, highlight=False, quiet=silent)
        self._shown = False

    @property
    def lively(self) -> bool:
        """Whether `live` shows anything."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def line(self, text: str = "", style: str | None = None) -> None:
        self._clear()
        self.console.print(text, style=style, markup=False)

    def live(self, text: str) -> None:
        """A line that whatever comes next replaces, cut to the terminal's width; nothing where there is none."""
        if self.lively:
            self._clear()
            self.console.print(text[: self.console.width - 1], end="", markup=False, soft_wrap=True)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            self.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            self._shown = False

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns whose name begins with `>` are numbers and stand at the right.

        Where the terminal is too narrow, text goes on in the next line; numbers, and names in the first column, do not.
        """
        table = Table(box=None, pad_edge=False)
        table.show_header = any(columns)
        for index, column in enumerate(columns):
            right = column.startswith(">")
            whole = right or index == 0
            table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=whole, overflow="fold")
        if title:
            self.line(title, "bold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._clear()
        with self.console.capture() as drawn:
            self.console.print(table, soft_wrap=False)
        text = drawn.get()
        self.console.file.write(text if self.console.is_terminal else re.sub(" +$", "", text, flags=re.MULTILINE))

    def result(self, data: dict[str, Any], code: int = 0) -> None:
        """The JSON object, where it was asked for; `code` is the one that the command ends with."""
        if self.as_json:
            print(json.dumps({"ok": True, **data} if not code else {"ok": False, "code": code, **data}))


class Ticker:
    """Progress of one long thing: a live line on a terminal, else a plain line every few seconds."""

    def __init__(self, output: Output, what: str) -> None:
        self.console, self.what = output.progress, what
        self.status = self.console.status(what) if self.console.is_terminal else None
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self.status:
            self.status.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        text = f"{self.what} {done} of {total}{f', {note}' if note else ''}"
        if self.status:
            self.status.update(text)
        elif time.monotonic() - self.last >= INTERVAL:
            self.last = time.monotonic()
            self.console.print(text, markup=False, soft_wrap=True)


def size(nbytes: float) -> str:
    """1 MB is 10^6 bytes."""
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:,.1f} kB"


def printable(text: str) -> str:
    """Without what would make a terminal do something: a model may write any bytes."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def counted(number: int, what: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    return f"{value * 1e3:,.0f} ms" if value < 1 else f"{value:,.1f} s"
