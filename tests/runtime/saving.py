"""Saves checkpoints of a toy for ever, in a process that is killed in the middle; over and over.

`python -m tests.runtime.saving ARTEFACT LIBRARY FOLDER ROUNDS` prints, for each round, the last step whose
checkpoint was reported, and the step that was found afterwards.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from gptc.runtime.artefact import open_artefact
from gptc.runtime.cpu import CpuModel
from gptc.runtime.events import Saved, Trouble
from gptc.runtime.history import History
from gptc.runtime.saver import Saver


def save_for_ever(model: CpuModel, history: History, step: int, pipe: int) -> None:
    def report(event: Saved | Trouble) -> None:
        assert isinstance(event, Saved), event
        os.write(pipe, event.step.to_bytes(8, "little"))

    with history.writing():
        saver = Saver(model, history, {}, report=report)
        while True:
            step += 1
            model.segment("params").view(np.float32)[:] = step
            model.segment("state").view(np.float32)[:] = -step
            saver.save(step, {"step": step})


def killed_after(seconds: float, model: CpuModel, history: History, step: int) -> int:
    """The last step that the killed process has reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(model, history, step, writer)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        reported = file.read()
    return int.from_bytes(reported[-8:], "little") if reported else step


def main(artefact: str, library: str, folder: str, rounds: int) -> None:
    model = CpuModel(open_artefact(Path(artefact)), Path(library))
    history = History(Path(folder), keep_last=2)
    rng, step = random.Random(0), 0
    for _ in range(rounds):
        reported = killed_after(0.02 + rng.random() * 0.08, model, history, step)
        torn: list[str] = []
        found = history.newest(torn.append)
        if found:
            found.load(model)
            value = np.unique(np.asarray(model.valid(model.artefact.manifest.params[0])))
            assert value.tolist() == [found.step], "the weights of another step"
            assert np.unique(np.asarray(model["table.g"])).tolist() == [-found.step]
            step = found.step
        print(reported, step, len(torn), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
