"""Runs that are killed or asked to stop, at any moment: nothing is lost, and they go on to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.runtime.artefact import Artefact
from gptc.runtime.build import build
from gptc.runtime.cache import Cache
from gptc.runtime.choices import Question, write_questions
from gptc.runtime.history import History
from gptc.runtime.interrupt import Interrupt, Interrupted
from tests.awake import Awake
from tests.conftest import FULL, TINY

ROOT = Path(__file__).parents[2]
STEPS = 400


def test_killed_while_saving(toy: Artefact, shared_cache: Cache, tmp_path: Path) -> None:
    """After every kill the newest checkpoint is whole, and not older than the last that was reported."""
    library = build(toy, cache=shared_cache).library
    rounds = 200 if FULL else 20
    argv = [sys.executable, "-m", "tests.runtime.saving", toy.folder, library, tmp_path / "run", str(rounds)]
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == rounds
    assert all(found >= reported and torn == 0 for reported, found, torn in lines)
    assert lines[-1][1] > rounds / 4  # most rounds got somewhere


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


LOOKS = ("--val-every", "20", "--hellaswag", "questions.bin", "--hellaswag-every", "70")
LOOKS += ("--sample-every", "60", "--sample-tokens", "8")


class Trainer:
    """`gptc train` of a tiny model, two micro-steps a step, for a second or so; looks at it and saves often."""

    def __init__(self, home: Path, cache: Path) -> None:
        self.home, self.environment = home, environment(GPTC_CACHE_DIR=str(cache))
        (home / "text.txt").write_bytes(bytes(range(50)) * 40)
        ids = np.arange(3, dtype=np.uint16)
        write_questions(home / "questions.bin", [Question(ids, tuple(ids + n for n in range(4)), 3)] * 3)

    def start(
        self, run: str, *flags: str, cache: Path | None = None, looks: tuple[str, ...] = LOOKS, code: str | None = None
    ) -> subprocess.Popen[str]:
        """`code` stands for `-m gptc`."""
        command = ["-c", code] if code else ["-m", "gptc"]
        argv = [sys.executable, *command, "train", TINY, "--data", "text.txt", "--steps", str(STEPS)]
        argv += ["--total-batch", "48", "--run", run, "--threads", "1", *looks, *flags]
        own = {"GPTC_CACHE_DIR": str(cache)} if cache else {}
        return subprocess.Popen(
            argv, cwd=self.home, env=self.environment | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, run: str, *flags: str) -> bytes:
        """The weights at the end."""
        done = self.start(run, *flags)
        _, problem = done.communicate()
        assert done.returncode == 0, problem
        return (self.home / run / "weights.safetensors").read_bytes()

    def log(self, run: str) -> str:
        """What llm.c would have written: each step once, without times."""
        return (self.home / run / "main.log").read_text()

    def seen(self, run: str, what: str) -> list[tuple[int, Any]]:
        """Step and `text` of samples, or `correct` of scores, in the order in which they were told."""
        events = map(json.loads, (self.home / run / "metrics.jsonl").read_text().splitlines())
        return [(event["step"], event[what]) for event in events if what in event]

    def history(self, run: str) -> History:
        return History(self.home / run / "checkpoints")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, cache: Cache) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("home"), cache.root)


@pytest.fixture(scope="module")
def undisturbed(trainer: Trainer) -> tuple[bytes, float]:
    """The weights at the end of a run that nobody stops, and the seconds it takes."""
    trainer.finish("warm")
    began = time.perf_counter()
    return trainer.finish("whole"), time.perf_counter() - began


@pytest.mark.llmc(check="K7")
def test_killed_and_gone_on(trainer: Trainer, undisturbed: tuple[bytes, float]) -> None:
    """kill -9 twice in a run: it ends with the bits of the undisturbed one, and with its log, samples and scores.

    Without any of them, the bits are the same too.
    """
    for least in (1, 150):
        running = trainer.start("killed", "--save-every", "50", "--resume", "auto")
        wait_for_step(trainer.history("killed"), least, running)
        running.kill()
        running.communicate()
    assert trainer.finish("killed", "--resume", "auto") == undisturbed[0]
    assert trainer.log("killed") == trainer.log("whole")
    assert trainer.log("whole").count("trl") == STEPS
    for what, every in (("text", 60), ("correct", 70)):
        assert [step for step, _ in trainer.seen("whole", what)] == [*range(every, STEPS, every), STEPS]
        assert trainer.seen("killed", what) == trainer.seen("whole", what)
    blind = trainer.start("blind", looks=("--val-every", "0"))
    blind.communicate()
    assert (trainer.home / "blind" / "weights.safetensors").read_bytes() == undisturbed[0]


def wait_for_step(history: History, least: int, running: subprocess.Popen[str]) -> None:
    while max(history.steps(), default=0) < least:
        assert running.poll() is None
        time.sleep(0.01)


def wait_for_line(log: Path, line: str, running: subprocess.Popen[str]) -> None:
    while not (log.exists() and line in log.read_text()):
        assert running.poll() is None
        time.sleep(0.01)


def wait_for_handlers(running: subprocess.Popen[str]) -> None:
    """Until the process catches SIGTERM: before, it is Python itself that starts."""
    while True:
        status = Path(f"/proc/{running.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert running.poll() is None
        time.sleep(0.01)


MOMENTS = {
    "compiling": (10, 0.0, 1.0, ()),
    "evaluating": (10, 0.0, 1.0, ("--val-every", "1", "--val-batches", "30")),
    "training": (15, 0.0, 0.4, ("--val-every", "0")),
    "waiting": (5, 0.5, 0.6, ()),
}
"""What the signal comes into -> how often in all, between which shares of a run, and the flags that make it long."""
SLOW = """
import sys, time
from gptc.cli import main
from gptc.runtime.loader import Loader
batch = Loader.batch
Loader.batch = lambda self, index: time.sleep(600 * (index == 30)) or batch(self, index)
sys.argv[0] = "gptc"
main()
"""
"""`gptc`, whose data does not come after the fifteenth step."""


@pytest.mark.parametrize("what", MOMENTS)
def test_stopped_at_any_moment(what: str, trainer: Trainer, undisturbed: tuple[bytes, float], tmp_path: Path) -> None:
    """SIGTERM and SIGINT: a checkpoint of the last step, or a clean end before the first; then the same bits."""
    weights, seconds = undisturbed
    count, first, last, flags = MOMENTS[what]
    rng, early = random.Random(what), 0
    for turn in range(count if FULL else 1):
        number, run = rng.choice((signal.SIGTERM, signal.SIGINT)), f"{what}-{turn}"
        while True:
            empty = tmp_path / f"{run}-{rng.random()}" if what == "compiling" else None
            running = trainer.start(run, *flags, cache=empty, code=SLOW if what == "waiting" else None)
            wait_for_handlers(running)
            if what == "waiting":
                wait_for_line(trainer.home / run / "main.log", "s:14 trl", running)
            time.sleep(rng.uniform(first, last) * (seconds if what != "waiting" else 1))
            with Awake() as clock:
                running.send_signal(number)
                _, told = running.communicate()
            if not (trainer.home / run / "weights.safetensors").exists():
                break
            shutil.rmtree(trainer.home / run)  # it was just done: once more
        assert clock.seconds < 10
        assert running.returncode == 128 + number, told
        assert "Traceback" not in told
        found = trainer.history(run).newest(pytest.fail)
        early += found is None
        assert trainer.finish(run, "--resume", "auto", "--sample-every", "0", "--val-every", "33") == weights
    assert what != "waiting" or early == 0


def test_a_second_signal_ends_it_at_once(trainer: Trainer, tmp_path: Path) -> None:
    """While the first is waiting for a disk that does not answer."""
    code = (
        "import sys, time\nfrom gptc.runtime import saver\nfrom gptc.cli import main\n"
        "saver.write_checkpoint = lambda *a, **k: time.sleep(600)\nsys.argv[0] = 'gptc'\nmain()"
    )
    argv = [sys.executable, "-c", code, "train", TINY, "--data", "text.txt", "--run", "twice", "--steps", "100000"]
    running = subprocess.Popen(
        argv, cwd=trainer.home, env=trainer.environment, stderr=subprocess.PIPE, stdout=-3, text=True
    )
    wait_for_line(trainer.home / "twice" / "main.log", "trl", running)
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert running.poll() is None
    with Awake() as clock:
        running.send_signal(signal.SIGINT)
        running.communicate()
    assert clock.seconds < 5
    assert running.returncode == 130


def test_a_wait_for_data_is_left_at_once() -> None:
    """A signal ends what can be left; what cannot is finished first."""
    with Interrupt() as interrupt:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with Awake() as clock, pytest.raises(Interrupted) as caught, interrupt.breakable():
            time.sleep(10)
        assert clock.seconds < 5
        assert caught.value.code == 143
        assert interrupt.wished
        with pytest.raises(Interrupted), interrupt.breakable():
            pytest.fail("entered")
    with Interrupt() as interrupt:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(0.3)  # not breakable: goes on
        with pytest.raises(Interrupted):
            interrupt.check()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_rank_is_stopped_between_its_first_sign_of_life_and_the_end_of_training_only() -> None:
    """Before, a signal waits; afterwards it is too late: ranks leave together, and not by a signal."""
    program = """if True:
        import os, signal
        from gptc.runtime.interrupt import Interrupt, hold
        hold()
        os.kill(os.getpid(), signal.SIGTERM)
        with Interrupt(patient=True) as interrupt:
            print(interrupt.wished, interrupt.wish().code)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        print("left")
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True 143\nleft\n"), done.stderr
