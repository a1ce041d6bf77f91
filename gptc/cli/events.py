"""What training says as it goes: lines for people, and every event in the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.runtime.events import Event


class Reporter:
    """Prints every step on a terminal, else some; adds all of them to the log, a line each.

    A disk that does not take the line is told once; training goes on.
    """

    def __init__(self, output: Output, log: Path, steps: int) -> None:
        from time import monotonic

        self.output, self.log, self.steps, self.clock = output, log, steps, monotonic
        self.last = float("-inf")
        self.told = False

    def __call__(self, event: Event) -> None:
        from gptc.runtime.events import Evaluation, Sample, Saved, Score, Trouble

        self._write(event)
        if isinstance(event, Evaluation):
            self.output.line(f"val loss {event.loss:.6f}")
        elif isinstance(event, Sample):
            self.output.line(f"generating:\n---\n{event.text}\n---")
        elif isinstance(event, Score):
            self.output.line(f"HellaSwag: {event.correct}/{event.total} = {event.accuracy:f}")
        elif isinstance(event, Saved):
            self.output.line(f"checkpoint {event.path} ({event.bytes / 1e6:,.1f} MB in {event.seconds:,.2f} s)")
        elif isinstance(event, Trouble):
            self.output.line(f"{'LOST' if event.lost else 'warning'}: {event.message}", "bold red")
        elif self._due(event.step):
            self.output.line(
                f"step {event.step}: train loss {event.loss:.6f} (took {event.seconds * 1e3:.2f} ms, "
                f"norm {event.norm:.4f}, lr {event.lr:.2e}, {event.tokens_per_second:,.0f} tokens/s)"
            )

    def _write(self, event: Event) -> None:
        from dataclasses import asdict
        from json import dumps

        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(dumps(asdict(event), default=str) + "\n")
        except OSError as error:
            if not self.told:
                self.output.line(f"warning: {self.log}: cannot write: {error.strerror}; lines are missing", "bold red")
            self.told = True

    def _due(self, step: int) -> bool:
        """The first ten steps, the last, and one each second between."""
        now = self.clock()
        if step > 10 and step != self.steps and now - self.last < 1.0:
            return False
        self.last = now
        return True
