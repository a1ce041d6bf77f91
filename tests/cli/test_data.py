"""`gptc data` as a user meets it: from text to a trained model, and every way to go wrong."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gptc.corpus.verify import verify
from gptc.runtime.shard import chunks, open_shard, write_shard
from tests.cli.command import environment, gptc, one_object
from tests.conftest import TINY


@pytest.fixture(scope="session", autouse=True)
def prose(home: Path) -> None:
    (home / "prose.txt").write_text("the cat and the hat and the rat sat on the mat.\n" * 200)


def test_prepare_then_train(home: Path) -> None:
    """What it writes is what training from the text itself reads, split in front instead of at the end."""
    made = one_object(gptc(home, "data", "prepare", "text.txt", "--out", "made", "--val-tokens", "300", "--json"))
    assert made["manifest"]["train"][0]["tokens"] == 1700
    shards = [open_shard(home / "made" / f"text_{name}.bin") for name in ("val_000000", "train_000001")]
    assert b"".join(bytes(p.astype("u1")) for s in shards for p in chunks(s)) == (home / "text.txt").read_bytes()
    checked = gptc(home, "data", "verify", "made")
    assert checked.returncode == 0
    assert "text_train_000001.bin: token shard, 1,700, sound" in checked.stdout
    losses = []
    for data in (["made"], ["made/*_train_*.bin", "--val-data", "made/*_val_*.bin"]):
        done = gptc(home, "train", TINY, "--data", *data, "--steps", "5", "--run", "run", "--json")
        losses.append((one_object(done)["loss"], one_object(done)["val_loss"]))
    assert losses[0] == losses[1]


def test_a_tokenizer_of_ones_own(home: Path) -> None:
    learnt = one_object(
        gptc(home, "data", "train-bpe", "prose.txt", "--vocab", "270", "--out", "own.tiktoken", "--json")
    )
    assert learnt["end_of_text"] == 269
    gptc(home, "data", "tokenizer", "own.tiktoken", "--out", "own.bin")
    for name in ("own.tiktoken", "own.bin"):
        flags = ("--tokenizer", name, "--out", f"with-{name}", "--json")
        made = one_object(gptc(home, "data", "prepare", "prose.txt", *flags))
        assert made["manifest"]["tokenizer"]["size"] == 270
    shards = [next((home / f"with-own{s}").glob("*_train_*")).read_bytes() for s in (".tiktoken", ".bin")]
    assert shards[0] == shards[1]
    assert verify([home / "own.tiktoken", home / "own.bin", home / "with-own.bin"], 270, lambda file: None)


MISTAKES = [
    (["prepare", "none.txt"], 1, "none.txt: no such file"),
    (["prepare", "text.txt", "--out", "prose.txt"], 1, "prose.txt: exists already"),
    (["prepare", "text.txt", "--tokenizer", "words"], 1, "unknown tokenizer 'words'"),
    (["prepare", "text.txt", "--name", "../x"], 1, "'../x' cannot begin the name of a file"),
    (["prepare", "text.txt", "--val-tokens", "2000"], 1, "leave none to train on"),
    (["prepare", "text.txt", "--val", "prose.txt", "--val-tokens", "5"], 2, "--val-tokens"),
    (["prepare", "text.txt", "--recipe", "hellaswag"], 2, "either sources, or --recipe"),
    (["prepare", "--from", "text.txt"], 2, "either sources, or --recipe"),
    (["prepare", "--recipe", "shakespeare"], 1, "did you mean 'tinyshakespeare'?"),
    (
        ["prepare", "--recipe", "hellaswag", "--from", "text.txt", "--tokenizer", "bytes"],
        1,
        "text.txt:1: not a question",
    ),
    (["verify", "none"], 1, "none: no such file"),
    (["verify", "text.txt"], 1, "text.txt: no token shard"),
    (["verify", "shard.bin", "--vocab", "10"], 1, "shard.bin: token 10 is 10; the model has 10"),
    (["train-bpe", "text.txt", "--vocab", "256"], 2, "--vocab"),
    (["train-bpe", "prose.txt", "--vocab", "9999"], 1, "9999 were asked for"),
    (["train-bpe", "prose.txt", "--out", "text.txt"], 1, "text.txt: the suffix is not .bin or .tiktoken"),
    (["tokenizer", "bytes", "--out", "b.bin"], 1, "the tokenizer bytes has no end of text"),
    (["tokenizer", "none.tiktoken", "--out", "b.bin"], 1, "none.tiktoken: no such file"),
    (["tokenizer", "shard.bin", "--out", "b.bin"], 1, "shard.bin: no tokenizer of llm.c"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda a: str(a)[-50:])
def test_mistakes(home: Path, arguments: list[str], code: int, message: str) -> None:
    write_shard(home / "shard.bin", np.arange(100))
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}
    done = gptc(home, "data", *arguments, COLUMNS="200")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_leaves_nothing(home: Path, number: signal.Signals) -> None:
    """The folder is there when it is complete; the processes that tokenise end with the first one."""
    (home / "large.jsonl").write_text((json.dumps({"text": "the end " * 500}) + "\n") * 20_000)
    out = f"large-{number}"
    arguments = ["data", "prepare", "large.jsonl", "--out", out, "--processes", "2", "--val-tokens", "9"]
    with subprocess.Popen(
        [sys.executable, "-m", "gptc", *arguments], cwd=home, env=environment(home), stderr=subprocess.PIPE
    ) as process:
        while not list(home.glob(f".{out}.*/*.bin")):
            time.sleep(0.02)
            assert process.poll() is None
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    for worker in workers:
        while alive(worker):
            time.sleep(0.02)
    assert not (home / out).exists()
    if number != signal.SIGKILL:  # the last, for it leaves the hidden folder
        *progress, last = errors.decode().splitlines()
        assert (process.returncode, last) == (130, "interrupted"), errors
        assert all(line.endswith(" tokens") for line in progress), errors  # said where the machine is slow
        assert not list(home.glob(f".{out}.*"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_full_disk_is_said(home: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    argv = [sys.executable, "-m", "gptc", "data", "prepare", "text.txt", "--out", "full"]
    done = subprocess.run(
        argv, cwd=home, env=environment(home), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "full: cannot write: " in done.stderr
    assert not list(home.glob("*full*"))
