"""What goes wrong on the command line: one message for each mistake, its exit code, and what stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gptc.cli.train import NOTICE
from gptc.runtime.shard import write_shard
from tests.cli.command import environment, gptc, one_object
from tests.conftest import TINY

MISTAKES: list[tuple[list[str | Path], int, str]] = [
    (["compile", "none.yaml"], 1, "none.yaml"),
    (["compile", TINY, "--bogus"], 2, "--bogus"),
    (["compile"], 2, "Missing argument"),
    (["compile", TINY, "--seq", "0"], 2, "--seq"),
    (["compile", TINY, "--precision", "f8"], 2, "'f8' is not one of f32, bf16"),
    (["compile", TINY, "--precision", "bf16", "--march", "x86-64-v3"], 1, "use --precision f32"),
    (["compile", TINY, "--seq", "17"], 1, "longer than the model's T = 16"),
    (["compile", TINY, "--batch", "999999999"], 1, "more than 2^31 - 1 tokens"),
    (["compile", TINY, "--set", "train.lr=fast"], 1, "expected a number, found 'fast'"),
    (["compile", TINY, "--set", "train.rl=1"], 1, "unknown key 'rl'"),
    (["compile", TINY, "--compiler", "nocc"], 3, "'nocc' is no working C compiler"),
    (["compile", TINY, "--march", "pdp11"], 1, "pdp11"),
    (["compile", TINY, "--out", "text.txt"], 5, "cannot write"),
    (["train", TINY, "--data", "none.txt"], 1, "none.txt: no such file"),
    (["train", TINY, "--lr", "-1", "--data", "text.txt"], 1, "learning rate -1.0 must be positive"),
    (["train", TINY, "--data", "small.txt"], 1, "2 tokens"),
    (["train", TINY, "--data", "beyond.bin"], 1, "token 3 is 50; the model has 50"),
    (["train", TINY, "--data", "text.txt", "--tokenizer", "words"], 1, "unknown tokenizer 'words'"),
    (["train", TINY, "--data", "text.txt", "--run", "text.txt/run"], 5, "cannot make this folder"),
    (
        ["train", TINY, "--data", "text.txt", "--lr", "1e30", "--steps", "50", "--run", "nan"],
        4,
        "lower the learning rate",
    ),
    (["generate", TINY, "--weights", "none"], 1, "none: no such file"),
    (["generate", TINY, "--weights", "text.txt"], 1, "not a valid safetensors file"),
    (["generate", TINY, "--top-p", "2"], 1, "top-p 2.0 must be in (0, 1]"),
    (["generate", TINY, "--batch", "2"], 2, "No such option: --batch"),
    (["compile", TINY, "--mode", "infer", "--total-batch", "64"], 2, "--total-batch would do nothing here"),
    (["train", TINY, "--prompt", "x"], 2, "--prompt would do nothing here\n  help: samples are written with"),
    (["train", TINY, "--hellaswag-every", "5"], 2, "--hellaswag-every would do nothing here"),
    (["train", TINY, "--allow-change", "all"], 2, "--allow-change would do nothing here"),
    (["train", TINY, "--plain-launches"], 2, "--plain-launches would do nothing here"),
    (
        ["train", TINY, "--data", "text.txt", "--resume", "5", "--run", "nan"],
        1,
        "there are none; gptc train --save-every",
    ),
    (["opt", "none.gir"], 1, "none.gir: no such file"),
    (["opt", "text.gir"], 1, "text.gir:1"),
    (["opt", "beyond.bin"], 1, "beyond.bin: byte 0 is not UTF-8"),
    (["opt", "text.gir", "--passes", "simplfy"], 2, "did you mean 'simplify'?"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda a: str(a)[-60:])
def test_mistakes(home: Path, arguments: list[str | Path], code: int, message: str) -> None:
    (home / "small.txt").write_text("x\n")
    (home / "text.gir").write_text("hello\n")
    write_shard(home / "beyond.bin", np.array([0, 1, 2, 50] * 100, np.uint16))
    before = files(home)
    done = gptc(home, *arguments, COLUMNS="200")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    begun = {"nan", "nan/metrics.jsonl", "nan/main.log", "nan/checkpoints", "nan/checkpoints/.lock"}
    assert files(home) - before <= begun, "something half-written stays behind"


def files(home: Path) -> set[str]:
    paths = (path.relative_to(home) for path in home.rglob("*"))
    return {str(path) for path in paths if path.parts[0] not in ("cache", "build")}


def test_mistakes_in_json(home: Path) -> None:
    done = gptc(home, "compile", TINY, "--seq", "17", "--json")
    result = one_object(done)
    assert (done.returncode, result["ok"], result["code"]) == (1, False, 1)
    assert result["errors"][0]["span"]["line"] == 3
    assert "longer than the model's T" in result["errors"][0]["message"]


def test_a_bug_says_where_its_details_are(home: Path) -> None:
    code = (
        "import sys, gptc.model\n"
        "def broken(*_): raise ZeroDivisionError('of course')\n"
        "gptc.model.load_description = broken\n"
        "from gptc.cli import main\n"
        "sys.argv = ['gptc', 'show', 'graph', 'x.yaml']\n"
        "main()"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment(home, TMPDIR=str(home)), capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "this is a bug in gptc: ZeroDivisionError: of course" in done.stderr
    assert "Traceback" not in done.stderr
    report = re.search(r"the details are in (\S+)", done.stderr)
    assert report is not None
    assert "in broken" in Path(report[1]).read_text()


def test_a_log_that_cannot_grow_is_told_once(home: Path) -> None:
    """The real thing: a file of 300 bytes at most.  The run itself goes on."""
    code = (
        "import resource, sys\nfrom gptc.cli import events, main\nwrite = events.Reporter._keep\n"
        "def small(*a):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (300, -1))\n    write(*a)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "events.Reporter._keep = small\nsys.argv[0] = 'gptc'\nmain()"
    )
    argv = [sys.executable, "-c", code, "train", TINY, "--data", "text.txt", "--steps", "9", "--run", "mute"]
    done = subprocess.run(argv, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mute/metrics.jsonl: cannot write: File too large") == 1
    assert (home / "mute" / "weights.safetensors").exists()


def test_an_interruption_is_130_and_leaves_a_checkpoint(home: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "gptc",
        "train",
        str(TINY),
        "--data",
        "text.txt",
        "--steps",
        "1000000",
        "--run",
        "killed",
    ]
    with subprocess.Popen(
        argv, cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        log = home / "killed" / "main.log"
        while not (log.is_file() and b"trl" in log.read_bytes()):
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.decode().endswith(NOTICE + "interrupted\n")
    assert {p.name for p in (home / "killed").iterdir()} == {"metrics.jsonl", "main.log", "checkpoints"}
    assert list((home / "killed" / "checkpoints").glob("step-*/manifest.json"))
    again = gptc(home, *argv[3:], "--lr", "0.1", "--resume", "auto")
    assert again.returncode == 1
    assert "train.lr: 0.01 in the checkpoint, 0.1 now" in again.stderr
    assert "--allow-change train.lr goes on" in again.stderr


def test_a_cache_that_cannot_be_is_said(home: Path) -> None:
    done = gptc(home, "compile", TINY, GPTC_CACHE_DIR=str(home / "text.txt" / "cache"))
    assert done.returncode == 5
    assert "GPTC_CACHE_DIR" in done.stderr
