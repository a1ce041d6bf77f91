"""`gptc train --ranks`: one command starts, stops and resumes a job; what goes wrong is told once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.errors import StorageError, ToolMissing
from gptc.runtime import job
from gptc.runtime.choices import Question, write_questions
from gptc.runtime.launch import RANK, find_launcher
from tests.conftest import FULL
from tests.system.workshop import TINY

pytest.importorskip("mpi4py", reason="ranks need mpi4py")
pytestmark = pytest.mark.skipif(find_launcher() is None, reason="ranks need mpiexec")

ROOT = Path(__file__).parents[2]
STEPS, ATTEMPTS = 300, 5


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
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


Tensors = dict[str, bytes]


def weights(folder: Path, run: str) -> Tensors:
    return {name: x.tobytes() for name, x in load_file(folder / run / "weights.safetensors").items()}


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


@pytest.fixture(scope="module")
def whole(folder: Path) -> Tensors:
    """The weights after a run that nothing disturbs, on two ranks of which each has all state."""
    code, said = end(start(folder, "whole", "--ranks", "2", *LOOKS))
    assert code == 0, said
    return weights(folder, "whole")


def test_ranks_choose_together_what_one_alone_would(folder: Path, whole: Tensors) -> None:
    assert len(seen(folder, "whole", "text")) == len(seen(folder, "whole", "correct")) == STEPS // 100
    once = ("--weights", "whole/weights.safetensors", "--steps", "1", "--lr", "1e-30", "--hellaswag", "questions.bin")
    code, said = end(start(folder, "again", *once))
    assert (code, seen(folder, "again", "correct")) == (0, seen(folder, "whole", "correct")[-1:]), said


def processes_of_ranks(folder: Path) -> list[int]:
    """Those of the job that runs in the folder, by their rank."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"mpi4py" in words and b"mpiexec" not in words[0] and (entry / "cwd").readlink() == folder:
                environment = dict(v.partition(b"=")[::2] for v in (entry / "environ").read_bytes().split(b"\0"))
                rank = next((environment[name.encode()] for name in RANK if name.encode() in environment), None)
                if rank is not None:
                    found.append((int(rank), int(entry.name)))
    return [process for _, process in sorted(found)]


def disturbed(folder: Path, disturbance: str, flags: tuple[str, ...]) -> tuple[int, str]:
    """A run that is stopped, or of which a rank is killed, soon after step 5; a busy machine may be too late."""
    process = start(folder, "disturbed", "--ranks", "2", *LOOKS, *flags)
    while steps_made(folder, "disturbed") < 5 and process.poll() is None:
        time.sleep(0.01)
    if disturbance == "SIGTERM":
        process.send_signal(signal.SIGTERM)
        return end(process)
    while not any((folder / "disturbed" / "checkpoints").glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    for number in processes_of_ranks(folder)[1:]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return end(process)


@pytest.mark.parametrize(
    ("disturbance", "first", "then"),
    [
        ("SIGTERM", (), ("--zero", "1")),
        ("SIGTERM", ("--zero", "1"), ("--zero", "1")),
        ("SIGKILL", ("--zero", "1", "--save-every", "4"), ()),
    ],
    ids=["to divided", "divided", "killed"],
)
def test_a_disturbed_run_ends_as_an_undisturbed_one(
    folder: Path, whole: Tensors, disturbance: str, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    """Stopped in order, or one of its ranks killed; with the state divided before, afterwards or both; with
    accumulation, samples and scores."""
    checkpoints = folder / "disturbed" / "checkpoints"
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder / "disturbed", ignore_errors=True)
        code, said = disturbed(folder, disturbance, first)
        if 5 <= steps_made(folder, "disturbed") < STEPS:
            break
    else:
        pytest.fail("it always came too late to test anything")
    assert code == (128 + signal.SIGTERM if disturbance == "SIGTERM" else StorageError.code), said
    assert disturbance == "SIGTERM" or "has died" in said
    assert any(checkpoints.glob("step-*")), said
    code, said = end(start(folder, "disturbed", "--ranks", "2", "--resume", "auto", *LOOKS, *then))
    assert code == 0, said
    assert "going on from" in said
    assert weights(folder, "disturbed") == whole
    assert seen(folder, "disturbed", "text") == seen(folder, "whole", "text")


@pytest.mark.skipif(not FULL, reason="GPTC_TEST_FULL=1 sends 40 signals")
def test_stopped_at_any_moment(folder: Path, whole: Tensors) -> None:
    """SIGTERM and SIGINT between the first sign of a rank and the end, also while it looks or saves; the same bits."""
    rng, stopped = random.Random(7), 0
    while stopped < 40:
        number, zero = rng.choice((signal.SIGTERM, signal.SIGINT)), rng.choice(((), ("--zero", "1")))
        shutil.rmtree(folder / "stopped", ignore_errors=True)
        process = start(folder, "stopped", "--ranks", "2", *LOOKS, *zero, *rng.choice(((), ("--save-every", "7"))))
        while not (folder / "stopped").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        process.send_signal(number)
        code, said = end(process)
        assert "Traceback" not in said, said
        if code == 0:
            continue  # it was just done
        assert code in (128 + number, -number), said  # a shell tells both as the first
        code, said = end(start(folder, "stopped", "--ranks", "2", "--resume", "auto", *LOOKS, *zero))
        assert code == 0, said
        assert weights(folder, "stopped") == whole
        stopped += 1


def test_any_number_of_ranks_goes_on(folder: Path) -> None:
    code, said = end(start(folder, "first", "--ranks", "2", "--zero", "1", "--steps", "20", "--save-every", "20"))
    assert code == 0, said
    code, said = end(start(folder, "first", "--resume", "auto", "--allow-change", "train.steps", batch=4))
    assert code == 0, said
    assert "going on from" in said
    assert steps_made(folder, "first") == STEPS


def test_mistakes_are_told_once(folder: Path) -> None:
    code, said = end(start(folder, "never", "--zero", "1"))
    assert code == 2
    assert "start several with --ranks" in said
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


def test_ranks_need_mpi4py(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once, and before any rank is started."""
    (tmp_path / "mpi4py.py").write_text("raise RuntimeError('cannot load MPI library')")
    monkeypatch.setitem(os.environ, "PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(ToolMissing, match="need mpi4py and an MPI that it finds: RuntimeError: cannot load"):
        job.run_ranks(2, ["-c", ""])
