"""The course of a run, in its folder: `metrics.jsonl` has every event as a JSON object on a line of its own, `main.log`
the lines that llm.c writes under that name (`llmc/logger.h`), where steps count from 0.

A line is added by one write to a file opened for it alone, so that a killed process tears at most the last one.  A run
that goes on from a checkpoint takes out what came after it: no step is there twice.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import append, replacing
from gptc.runtime.events import Evaluation, Event, Sample, Score, Step
from gptc.runtime.manifest import first_mistake

METRICS, MAIN_LOG = "metrics.jsonl", "main.log"
MAX_LINE = 4 << 20
"""Bytes: a sample of any length that a model writes is shorter."""
MAX_INTEGER = 1 << 63
LAST_TIME = 1e11
"""Seconds since 1970: beyond it there is no date."""
KINDS: dict[str, TypeAdapter[Event]] = {kind.__name__.lower(): TypeAdapter(kind) for kind in get_args(Event)}
NUMBERS = {kind.__name__.lower(): [f.name for f in fields(kind) if f.type == "float"] for kind in get_args(Event)}
"""Fields where null stands for what is no number."""
REPEATED = tuple(kind.__name__.lower() for kind in (Evaluation, Sample, Score))
"""Told after a checkpoint of the same step was taken, so that a run which goes on from it tells them again."""
_OF_MAIN = re.compile(rb"s:(\d{1,18}) (trl|tel|eval):\S+[^\n]*\n")


@dataclass(frozen=True)
class Entry:
    """An event, and when it was told: seconds since 1970."""

    time: float
    event: Event


class Log:
    """The files of one run.  Raises OSError where the disk does not take a line; nothing of it stays then."""

    def __init__(self, folder: Path) -> None:
        self.metrics, self.main = folder / METRICS, folder / MAIN_LOG
        self._kept: set[tuple[str, int]] = set()

    def begin(self, step: int) -> int:
        """Keep what was told up to the checkpoint of `step` updates (0: there is none).

        Returns how many lines of metrics.jsonl are gone because they could not be read, the torn last one included.
        """
        if step == 0:
            for path in (self.metrics, self.main):
                path.write_bytes(b"")
            return 0
        damaged = 0

        def keep(line: bytes) -> bool:
            nonlocal damaged
            try:
                kind, found = _kind_and_step(_parse(line))
            except ValueError:
                damaged += 1
                return False
            if found == step and kind in REPEATED:
                self._kept.add((kind, found))
            return found <= step

        _filter(self.metrics, keep)
        _filter(self.main, lambda line: _precedes(line, step))
        return damaged

    def write(self, event: Event) -> None:
        """Add an event, unless it was told before the run was interrupted."""
        kind = type(event).__name__.lower()
        if (kind, event.step) in self._kept:
            return
        values = {name: _finite(value) for name, value in asdict(event).items()}
        entry = {"kind": kind, "time": round(time.time(), 3), **values}
        append(self.metrics, json.dumps(entry, default=str, allow_nan=False).encode() + b"\n")
        if line := main_line(event):
            append(self.main, line.encode() + b"\n")


def main_line(event: Event) -> str | None:
    """An event as llm.c logs it; None where it does not."""
    match event:
        case Step():
            return f"s:{event.step - 1} trl:{event.loss:.4f} lr:{event.lr:.6f} norm:{event.norm:.2f}"
        case Evaluation():
            return f"s:{event.step} tel:{event.loss:.4f}"
        case Score():
            return f"s:{event.step} eval:{event.accuracy:.4f}"
    return None


def read_log(folder: Path) -> tuple[list[Entry], bool]:
    """All events in `folder` in the order they were told, and whether the last line is torn, which is then left out.

    Lines of kinds that this version does not know are passed over.  Raises InputError where there is no log,
    StorageError at any other line that is no event.
    """
    path = folder / METRICS
    entries: list[Entry] = []
    try:
        for number, line in enumerate(_lines(path), 1):
            try:
                entry = _entry(_parse(line))
            except ValueError as error:
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    return entries, True
                hint = "gptc train --resume auto leaves out what cannot be read; or remove the line"
                raise StorageError.of(f"{path}:{number}: not an event of a run: {error}", None, hint) from None
            if entry is not None:
                entries.append(entry)
    except (FileNotFoundError, NotADirectoryError):
        hint = "give the folder of a run, as runs/gpt2-nano"
        raise InputError.of(f"{path}: no such file", None, hint) from None
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror or error}") from None
    return entries, False


def _lines(path: Path) -> Iterator[bytes]:
    """With their line ends; one that is too long comes in pieces, none of which is an event."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            yield line


def _parse(line: bytes) -> dict[str, Any]:
    """The object on a line.  Raises ValueError that says what there is instead."""
    try:
        found = json.loads(line, parse_int=_integer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not line.endswith(b"\n"):
        raise ValueError("no JSON object on a line of its own")
    return found


def _integer(text: str) -> int:
    if len(text) > len(str(MAX_INTEGER)):
        raise ValueError(f"the number {text[:10]}... is too large")
    return int(text)


def _kind_and_step(found: dict[str, Any]) -> tuple[str, int]:
    kind, step = found.get("kind"), found.get("step")
    if not isinstance(kind, str) or type(step) is not int or not 0 <= step < MAX_INTEGER:
        raise ValueError("it has no kind or no step")
    return kind, step


def _entry(found: dict[str, Any]) -> Entry | None:
    kind, _ = _kind_and_step(found)
    when = found.get("time")
    if kind not in KINDS:
        return None
    if not isinstance(when, float | int) or not 0 <= when < LAST_TIME:
        raise ValueError("it has no time")
    void = {name: math.nan for name in NUMBERS[kind] if name in found and found[name] is None}
    try:
        return Entry(float(when), KINDS[kind].validate_python(found | void))
    except ValidationError as error:
        raise ValueError(f"{kind}: {first_mistake(error)}") from None


def _precedes(line: bytes, step: int) -> bool:
    """Whether a line of main.log was written up to the checkpoint of `step` updates."""
    match = _OF_MAIN.fullmatch(line)
    return match is not None and int(match[1]) < step + (match[2] != b"trl")


def _filter(path: Path, keep: Callable[[bytes], bool]) -> None:
    """Leave only the lines to keep, whole lines; the file is written anew only where that changes something."""
    try:
        kept = [keep(line) for line in _lines(path)]
    except FileNotFoundError:
        return
    if all(kept):
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(line for line, wanted in zip(_lines(path), kept, strict=True) if wanted)


def _finite(value: Any) -> Any:
    """JSON has no word for infinity or for what is no number: null stands for both."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
