"""A run as its log tells it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from gptc.runtime.events import Began, Ended, Event, Step
from gptc.runtime.log import Entry, read_log

Kind = TypeVar("Kind", bound=Event)
Points = list[tuple[float, float]]
"""Steps and values, by rising step; every number finite."""
LARGEST = 1e100
"""Beyond it, or as far below 1, a value is a sign of damage, and no axis can hold it beside others."""


@dataclass(frozen=True)
class Course:
    """All events of one run in the order they were told."""

    name: str
    entries: tuple[Entry, ...]
    torn: bool
    """Whether the last line is not whole: the run was killed, or is writing now."""

    def all(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind; of those of the same step the last, by rising step."""
        return [event for event in self._events.get(kind, []) if isinstance(event, kind)]

    @cached_property
    def _events(self) -> dict[type, list[Event]]:
        found: dict[type, dict[int, Event]] = {}
        for entry in self.entries:
            found.setdefault(type(entry.event), {})[entry.event.step] = entry.event
        return {kind: sorted(events.values(), key=lambda event: event.step) for kind, events in found.items()}

    @cached_property
    def began(self) -> Began | None:
        """The last beginning; None in a log that has none."""
        found = [entry.event for entry in self.entries if isinstance(entry.event, Began)]
        return found[-1] if found else None

    @cached_property
    def ended(self) -> Ended | None:
        """The end, where nothing came after it."""
        last = self.entries[-1].event if self.entries else None
        return last if isinstance(last, Ended) else None

    @cached_property
    def steps(self) -> list[Step]:
        return self.all(Step)

    @property
    def last_step(self) -> int:
        return self.steps[-1].step if self.steps else 0

    def points(self, kind: type[Kind], name: str) -> Points:
        """One number of each event of a kind."""
        found = ((float(event.step), float(getattr(event, name))) for event in self.all(kind))
        kept = ((step, value) for step, value in found if abs(value) < LARGEST)
        return [(step, value if abs(value) > 1 / LARGEST else 0.0) for step, value in kept]

    @property
    def seconds(self) -> float:
        """Wall time of all processes that took part, from the beginning of each to the last it told."""
        total = 0.0
        for before, after in zip(self.entries, self.entries[1:], strict=False):
            if not isinstance(after.event, Began):
                total += max(0.0, after.time - before.time)
        return total

    @property
    def tokens_per_second(self) -> float | None:
        """The median over steps."""
        speeds = [speed for _, speed in self.points(Step, "tokens_per_second")]
        return statistics.median(speeds) if speeds else None

    @property
    def mfu(self) -> float | None:
        """Model FLOP utilisation at that median; None where the model's cost or the machine's peak is unknown."""
        speed, began = self.tokens_per_second, self.began
        if speed is None or began is None or not began.flops_per_token or not began.peak:
            return None
        return speed * began.flops_per_token / began.peak


def read_course(folder: Path, name: str) -> Course:
    """The run in a folder.  Raises InputError or StorageError where it has no log, or a damaged one."""
    entries, torn = read_log(folder)
    return Course(name, tuple(entries), torn)
