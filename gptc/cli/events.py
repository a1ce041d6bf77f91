"""What training says as it goes: lines for people, and every event in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.runtime.train import Event


class Reporter:
    """Prints every step on a terminal, else some; writes all of them to the log."""

    def __init__(self, output: Output, log: TextIO, steps: int) -> None:
        from time import monotonic

        self.output, self.log, self.steps, self.clock = output, log, steps, monotonic
        self.last = float("-inf")

    def __call__(self, event: Event) -> None:
        from dataclasses import asdict
        from json import dumps

        from gptc.runtime.saver import Saved, Trouble
        from gptc.runtime.train import Evaluation

        self.log.write(dumps(asdict(event), default=str) + "\n")
        self.log.flush()
        if isinstance(event, Evaluation):
            self.output.line(f"val loss {event.loss:.6f}")
        elif isinstance(event, Saved):
            self.output.line(f"checkpoint {event.path} ({event.bytes / 1e6:,.1f} MB in {event.seconds:,.2f} s)")
        elif isinstance(event, Trouble):
            self.output.line(f"{'LOST' if event.lost else 'warning'}: {event.message}", "bold red")
        elif self._due(event.step):
            self.output.line(
                f"step {event.step}: train loss {event.loss:.6f} (took {event.seconds * 1e3:.2f} ms, "
                f"norm {event.norm:.4f}, lr {event.lr:.2e}, {event.tokens_per_second:,.0f} tokens/s)"
            )

    def _due(self, step: int) -> bool:
        """The first ten steps, the last, and one each second between."""
        now = self.clock()
        if step > 10 and step != self.steps and now - self.last < 1.0:
            return False
        self.last = now
        return True
