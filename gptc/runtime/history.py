"""The checkpoints of a run: folders `step-<n>`, of which the newest few and every so manieth are kept.

A name that begins with a dot is not a checkpoint: what is being written, or being removed.  Whatever a killed
process left of those goes when the next one starts.  A damaged checkpoint is told, passed over, and never removed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from gptc.errors import GptcError, InputError, StorageError
from gptc.runtime.atomic import remove, rename, sync
from gptc.runtime.checkpoint import Checkpoint, open_checkpoint
from gptc.runtime.world import ALONE, World

NAME = re.compile(r"step-(\d{8,18})")
WRITING, REMOVING = ".writing-", ".removing-"
LOCK = ".lock"


@dataclass(frozen=True)
class History:
    """The folder of a run's checkpoints.  `keep_last` 0 keeps all; `keep_every` 0 keeps none for its number."""

    folder: Path
    keep_last: int = 3
    keep_every: int = 0

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of all checkpoints that are there, whole or damaged, oldest first."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError.of(f"{self.folder}: cannot read: {error.strerror}") from None
        return sorted(int(match[1]) for match in map(NAME.fullmatch, names) if match)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and keep every other process from writing there until the block ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise InputError.of(
                f"{self.folder}: another process is writing here", None, "choose another --run"
            ) from None
        except OSError as error:
            raise StorageError.of(f"{self.folder}: cannot write here: {error.strerror}") from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def add(self, step: int, write: Callable[[Path], None], world: World = ALONE) -> Path:
        """Let `write` fill a folder, and make it the checkpoint of `step`; `flush` makes that last.

        All ranks that write must come here, and the first does the rest.  Raises OSError, on all ranks if on one; then
        nothing has changed.
        """
        path, temporary = self.path(step), self.folder / f"{WRITING}{step:08d}"

        def publish() -> None:
            sync(temporary)
            self.set_aside(step)
            rename(temporary, path)

        try:
            write(temporary)
            world.first(publish)
        except BaseException:
            if world.leads:
                remove(temporary)
            raise
        return path

    def flush(self, world: World = ALONE) -> None:
        """Force the names in the folder to the disk."""
        world.first(lambda: sync(self.folder))

    def set_aside(self, step: int) -> Path | None:
        """Give the checkpoint of `step`, if there is one, a name under which no run goes on from it."""
        path = self.path(step)
        if not path.exists():
            return None
        number = 1
        while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
            number += 1
        rename(path, aside)
        return aside

    def prune(self) -> None:
        """Remove what need not be kept.  What looks damaged neither counts as kept nor is removed."""
        if self.keep_last == 0:
            return
        sound = [step for step in self.steps() if _is_sound(self.path(step))]
        for step in sound[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                leaving = self.folder / f"{REMOVING}{step:08d}"
                remove(leaving)
                rename(self.path(step), leaving)  # no half-removed folder has a checkpoint's name
                shutil.rmtree(leaving)

    def newest(self, report: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint of which every byte is right; `report` is told of those passed over."""
        for step in reversed(self.steps()):
            try:
                return self.verified(step)
            except GptcError as error:
                report(f"passed over: {error.diagnostics[0].message}")
        return None

    def verified(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, every byte compared with its hash."""
        if not self.path(step).exists():
            known = ", ".join(map(str, self.steps()))
            hint = (
                f"there are those of steps {known}" if known else "there are none; gptc train --save-every makes them"
            )
            raise InputError.of(f"{self.folder}: no checkpoint of step {step}", None, hint)
        return verified(self.path(step))

    def _sweep(self) -> None:
        for name in os.listdir(self.folder):
            if name.startswith((WRITING, REMOVING)):
                remove(self.folder / name)


def verified(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, every byte compared with its hash."""
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    return checkpoint


def _is_sound(path: Path) -> bool:
    """Whether the manifest is whole and the files have its lengths."""
    try:
        open_checkpoint(path)
    except GptcError:
        return False
    return True
