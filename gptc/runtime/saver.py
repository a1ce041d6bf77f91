"""Checkpoints that training hardly waits for: copied between two steps, written by a thread while it goes on.

One copy at a time: when the next is due and the last is not written yet, training waits.  A disk that fails is tried
again, then told; the run and the checkpoints that it has go on.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from gptc.errors import StorageError
from gptc.runtime.checkpoint import Moment, Setting, write_checkpoint
from gptc.runtime.events import Saved, Trouble
from gptc.runtime.history import History
from gptc.runtime.model import Model
from gptc.runtime.snapshot import Snapshot
from gptc.runtime.world import ALONE, World

PAUSES = (0.5, 2.0)
"""Seconds to wait before each new attempt."""
MARGIN = 1 << 20
"""Bytes that must be free beside the tensors': manifest, headers, folders."""


class Saver:
    """Writes checkpoints of one model, those of `every` steps (0: only when asked to).

    `report` is called on the thread of training, at the next `poll`, `save` or `finish`.  `world` has the ranks that
    write together, each with a saver of its own.
    """

    def __init__(
        self,
        model: Model,
        history: History,
        settings: Mapping[str, Setting],
        every: int = 0,
        report: Callable[[Saved | Trouble], None] = lambda event: None,
        world: World = ALONE,
    ) -> None:
        self._model, self._history, self._settings, self._world = model, history, settings, world
        self.every, self._report = every, report
        self._snapshot = Snapshot(model, world.rank) if every else None
        if self._snapshot:
            self._snapshot.take(model)  # the first touch of memory takes seconds: now, not between two steps
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Saved] | None = None
        self._troubles: list[Trouble] = []
        self.latest = max(history.steps(), default=None)
        """The step of the last checkpoint that was begun."""
        self.failed = False
        """Whether the last checkpoint could not be written."""

    def due(self, step: int) -> bool:
        """Whether a checkpoint is wanted after `step` updates."""
        return bool(self.every) and step % self.every == 0

    def save(self, step: int, progress: Mapping[str, Any]) -> None:
        """Copy the model after `step` updates and begin to write; returns as soon as training may change it."""
        began = time.perf_counter()
        self.finish()
        try:
            self._snapshot = self._snapshot or Snapshot(self._model, self._world.rank)
            self._snapshot.take(self._model)
        except MemoryError:
            self._snapshot = None  # the thread tells, also other ranks
        blocked = time.perf_counter() - began
        moment = Moment(step, self._settings, progress)
        self._writing = self._pool.submit(self._write, self._snapshot, moment, blocked)
        self.latest = step

    def poll(self) -> None:
        """Tell what has happened since."""
        while self._troubles:
            self._report(self._troubles.pop(0))
        if self._writing and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is being written, and tell what came of it."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            with self._world.waiting():
                wait([writing])
            outcome: Saved | None = writing.result()
        except OSError:
            outcome = None  # `_troubles` says why
        self.poll()
        self.failed = outcome is None
        if outcome:
            self._report(outcome)

    def _write(self, snapshot: Snapshot | None, moment: Moment, blocked: float) -> Saved:
        """Runs on the thread that writes."""
        began = time.perf_counter()
        path, size = None, 0
        for pause in (*PAUSES, None):
            try:
                if path is None:
                    path, size = self._attempt(snapshot, moment)
                self._history.flush(self._world)
                break
            except OSError as error:
                lost = pause is None or error.errno == errno.ENOMEM
                message = f"checkpoint of step {moment.step}: {error.strerror or error}"
                message += "" if lost else f"; again in {pause:g} s"
                self._troubles.append(Trouble(moment.step, message, lost))
                if pause is None or lost:
                    raise
                time.sleep(pause)
        assert path is not None
        if self._world.leads:
            self._prune(moment.step)
        return Saved(moment.step, path, size, blocked, time.perf_counter() - began)

    def _attempt(self, snapshot: Snapshot | None, moment: Moment) -> tuple[Path, int]:
        """Where the checkpoint is, and its bytes, once every rank has written its part."""

        def own_bytes() -> int:
            if snapshot is None:
                raise OSError(errno.ENOMEM, "no memory for a copy")
            return snapshot.nbytes

        size, folder = sum(self._world.each(own_bytes)), self._history.folder
        assert snapshot is not None
        self._world.first(lambda: _require_space(folder, size + MARGIN))
        manifest = self._model.artefact.manifest
        write = partial(write_checkpoint, snapshot=snapshot, model=manifest, moment=moment, world=self._world)
        return self._history.add(moment.step, write, self._world), size

    def _prune(self, step: int) -> None:
        try:
            self._history.prune()
        except (OSError, StorageError) as error:
            self._troubles.append(Trouble(step, f"cannot remove old checkpoints: {error}", lost=False))


def _require_space(folder: Path, need: int) -> None:
    """Told before a byte is written, for a full disk is bad for others too."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {folder}")
