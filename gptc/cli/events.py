"""What training says as it goes: lines for people, and every event in the run's logs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gptc.cli.output import Output, printable
from gptc.cli.pace import Pace
from gptc.runtime.events import Began, Evaluation, Event, Sample, Saved, Score, Skipped, Step, Trouble
from gptc.runtime.log import Log

FIRST = 10
"""So many steps are always told."""
INTERVAL, LIVE_INTERVAL = 1.0, 30.0
"""Seconds between two lines for steps: where there is no live line, and above it."""
REFRESH = 0.1
"""Seconds that a live line stands at least."""


class Sink(Protocol):
    """Something that keeps events.  Raises OSError where it cannot."""

    def write(self, event: Event) -> None: ...


class Reporter:
    """Takes the events of a run, on the thread of training.

    A disk that does not take one is told once; training goes on.
    """

    def __init__(self, output: Output, sinks: dict[str, Sink], steps: int, began: Began) -> None:
        """`sinks` by the names that people know them by; `began` is told to them at once."""
        self._output, self._sinks, self._steps = output, dict(sinks), steps
        self._pace = Pace(steps, began.flops_per_token, began.peak)
        self._interval = LIVE_INTERVAL if output.lively else INTERVAL
        self._last = self._last_live = float("-inf")
        self._failed: set[str] = set()
        self._keep(began)

    def __call__(self, event: Event) -> None:
        self._keep(event)
        match event:
            case Step():
                self._pace.add(event)
                self._show(event)
            case Skipped():
                text = (
                    f"step {event.step}: the update is skipped: {event.reason}; its data begin at batch {event.batch}"
                )
                self._output.line(text, "bold yellow")
            case Evaluation():
                self._output.line(f"val loss {event.loss:.6f}")
            case Sample():
                self._output.line(f"generating:\n---\n{printable(event.text)}\n---")
            case Score():
                self._output.line(f"HellaSwag: {event.correct}/{event.total} = {event.accuracy:.6f}")
            case Saved():
                size = f"{event.bytes / 1e6:,.1f} MB in {event.seconds:,.2f} s"
                self._output.line(f"checkpoint {event.path} ({size})")
            case Trouble():
                self._output.line(f"{'LOST' if event.lost else 'warning'}: {event.message}", "bold red")

    def _keep(self, event: Event) -> None:
        for name, sink in self._sinks.items():
            try:
                sink.write(event)
            except OSError as error:
                if name not in self._failed:
                    message = f"warning: {name}: cannot write: {error.strerror}; lines are missing"
                    self._output.line(message, "bold red")
                self._failed.add(name)

    def _show(self, event: Step) -> None:
        """A line as llm.c's train_gpt2 begins it and its CUDA version goes on; between such lines a live one."""
        now, pace = time.monotonic(), self._pace.words()
        norm, rate = f"norm {event.norm:.4f}", f"lr {event.lr:.2e}"
        if event.step <= FIRST or event.step == self._steps or now - self._last >= self._interval:
            self._last = self._last_live = now
            head = f"step {event.step}: train loss {event.loss:.6f} (took {event.seconds * 1e3:.6f} ms)"
            self._output.line(" | ".join((head, norm, rate, *pace)))
        elif now - self._last_live >= REFRESH:
            self._last_live = now
            head = f"step {event.step}/{self._steps} | loss {event.loss:.4f}"
            self._output.live(" | ".join((head, *pace, norm, rate)))


@dataclass(frozen=True)
class Watch:
    """A run to be reported, as soon as it is known where it goes on."""

    output: Output
    folder: Path
    steps: int
    began: Began
    tensorboard: bool

    def open(self, step: int) -> Reporter:
        """The reporter.  What the logs have after `step` updates is taken out."""
        log = Log(self.folder)
        if damaged := log.begin(step):
            self.output.line(f"{log.metrics}: {damaged} lines that cannot be read are left out")
        sinks: dict[str, Sink] = {str(log.metrics): log}
        if self.tensorboard:
            from gptc.cli.tensorboard import TensorBoard

            sinks["TensorBoard"] = TensorBoard(self.folder, step)
        return Reporter(self.output, sinks, self.steps, replace(self.began, step=step))
