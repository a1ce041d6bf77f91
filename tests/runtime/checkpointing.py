"""What the tests of checkpoints share: a model's bytes, a checkpoint of it, a disk that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptc.runtime.checkpoint import Moment, write_checkpoint
from gptc.runtime.cpu import CpuModel
from gptc.runtime.snapshot import Snapshot

SETTINGS = {"train.lr": 0.01, "train.steps": 20, "graph.x": "embedding(wte, tokens)", "data": "text"}
CALLS = ("open", "write", "fsync", "rename", "mkdir", "close")
SHORT = 0
"""Of a write only the first byte is taken."""


def write(model: CpuModel, folder: Path, step: int = 7) -> Path:
    """A checkpoint of the model in the folder."""
    snapshot = Snapshot(model)
    snapshot.take(model)
    write_checkpoint(folder, snapshot, model.artefact.manifest, Moment(step, SETTINGS, {"step": step}))
    return folder


def lasting(model: CpuModel) -> bytes:
    """All that a run goes on from."""
    return model.segment("params").tobytes() + model.segment("state").tobytes()


class Disk:
    """`os`, whose call number `n` of those that write fails: that one alone, or it and all that follow."""

    def __init__(self, n: int, number: int, lasting: bool) -> None:
        self.n, self.number, self.lasting, self.calls = n, number, lasting, 0

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        return self._wrap(name, real) if name in CALLS else real

    def _wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: Any) -> object:
            self.calls += 1
            if self.calls != self.n and not (self.lasting and self.calls > self.n):
                return real(*arguments)
            if self.number == SHORT:
                return os.write(arguments[0], arguments[1][:1]) if name == "write" else real(*arguments)
            if name == "close":
                real(*arguments)  # Linux closes, whatever it answers
            raise OSError(self.number, os.strerror(self.number))

        return call
