"""`gptc train --ranks`: one command starts, stops and resumes a job; what goes wrong is told once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.runtime.choices import Question, write_questions
from gptc.runtime.launch import find_launcher
from tests.system.workshop import TINY

pytest.importorskip("mpi4py", reason="ranks need mpi4py")
pytestmark = pytest.mark.skipif(find_launcher() is None, reason="ranks need mpiexec")

ROOT = Path(__file__).parents[2]
STEPS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("jobs")
    digits = random.Random(5).choices("0123456789 ", weights=range(11, 0, -1), k=20_000)  # the model has 61 bytes
    (made / "digits.txt").write_text("".join(digits))
    ids = np.arange(40, dtype=np.uint16)
    asked = [Question(ids[n : n + 4], tuple(ids[n + k : n + k + 3] for k in range(4)), n % 4) for n in range(7)]
    write_questions(made / "questions.bin", asked)
    return made


def start(folder: Path, run: str, *more: str, batch: int = 2) -> subprocess.Popen[str]:
    """A job of two ranks unless `more` says otherwise."""
    words = ["train", str(TINY), "--steps", str(STEPS), "--batch", str(batch), "--seq", "16", "--val-every", "0"]
    words += ["--run", run, "--threads", "1", "--data", "digits.txt", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "gptc", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GPTC_CACHE_DIR": str(folder / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and all that was said."""
    out, err = process.communicate(timeout=90)
    return process.returncode, out + err


def weights(folder: Path, run: str) -> str:
    return hashlib.sha256((folder / run / "weights.safetensors").read_bytes()).hexdigest()


def steps_made(folder: Path, run: str) -> int:
    try:
        lines = (folder / run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


LOOKS = ("--hellaswag", "questions.bin", "--hellaswag-every", "100", "--sample-every", "100", "--total-batch", "128")


def seen(folder: Path, run: str, what: str) -> list[Any]:
    """The `text` of samples, or `correct` of scores."""
    events = map(json.loads, (folder / run / "metrics.jsonl").read_text().splitlines())
    return [event[what] for event in events if what in event]


def test_stopped_and_resumed_is_undisturbed(folder: Path) -> None:
    """With accumulation, samples and scores; the ranks choose together what one alone chooses with these weights."""
    code, said = end(start(folder, "whole", "--ranks", "2", *LOOKS))
    assert code == 0, said
    assert len(seen(folder, "whole", "text")) == len(seen(folder, "whole", "correct")) == STEPS // 100
    once = ("--weights", "whole/weights.safetensors", "--steps", "1", "--lr", "1e-30", "--hellaswag", "questions.bin")
    code, said = end(start(folder, "again", *once))
    assert (code, seen(folder, "again", "correct")) == (0, seen(folder, "whole", "correct")[-1:]), said
    process = start(folder, "stopped", "--ranks", "2", *LOOKS)
    while steps_made(folder, "stopped") < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert code == 128 + signal.SIGTERM, said
    assert 5 <= steps_made(folder, "stopped") < STEPS, "the signal came too late to test anything"
    assert any((folder / "stopped" / "checkpoints").glob("step-*")), said
    code, said = end(start(folder, "stopped", "--ranks", "2", "--resume", "auto", *LOOKS))
    assert code == 0, said
    assert "going on from" in said
    assert weights(folder, "stopped") == weights(folder, "whole")
    assert seen(folder, "stopped", "text") == seen(folder, "whole", "text")


def test_any_number_of_ranks_goes_on(folder: Path) -> None:
    code, said = end(start(folder, "first", "--ranks", "2", "--steps", "20", "--save-every", "20"))
    assert code == 0, said
    code, said = end(start(folder, "first", "--resume", "auto", "--allow-change", "train.steps", batch=4))
    assert code == 0, said
    assert "going on from" in said
    assert steps_made(folder, "first") == STEPS


def test_mistakes_are_told_once(folder: Path) -> None:
    code, said = end(start(folder, "never", "--ranks", "2", "--data", "no-such-file"))
    assert code == 1
    assert said.count("no-such-file") == 1, said
    for wrong in (("--lr", "-1"), ("--total-batch", "100")):
        code, said = end(start(folder, "never", "--ranks", "2", *wrong))
        assert code == 1
        assert said.count("error:") == 1, said
    assert "2 ranks x 2 sequences x 16 tokens = 64" in said


def test_ranks_need_a_launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    command = [sys.executable, "-c", "from gptc.runtime import launch, job; launch.LAUNCHER = 'no-such-mpiexec'\n"
               "try: job.run_ranks(2, [])\nexcept Exception as e: print(type(e).__name__, e)"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ToolMissing"), done.stdout + done.stderr
    assert "pip install" in done.stdout
