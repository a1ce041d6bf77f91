"""The command line as a user meets it: exit codes, one message for each mistake, JSON, and what stays behind."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.cli.train import NOTICE
from gptc.runtime.shard import write_shard
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]


def environment(home: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "GPTC_CACHE_DIR": str(home / "cache"), **variables}


def gptc(home: Path, *arguments: str | Path, **variables: str) -> Done:
    argv = [sys.executable, "-m", "gptc", *map(str, arguments)]
    return subprocess.run(
        argv, cwd=home, env=environment(home, **variables), capture_output=True, text=True, check=False
    )


def one_object(done: Done) -> dict[str, Any]:
    """stdout is one JSON object on one line."""
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- help ------------------------------------------------------------------------------------------

COMMANDS = (
    "compile",
    "train",
    "generate",
    "bench",
    "diff",
    "opt",
    "schema",
    "doctor",
    "show",
    "cache",
    "import",
    "export",
    "checkpoints",
    "report",
    "tune",
)


def test_help_lists_every_command(home: Path) -> None:
    done = gptc(home, "--help")
    assert done.returncode == 0
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in COMMANDS)


def test_help_loads_nothing_heavy(home: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom gptc.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'numpy', 'pydantic', 'jinja2', 'networkx', 'ruamel', 'tiktoken', 'gptc.ir', 'gptc.compiler'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "command",
    [
        *(c for c in COMMANDS if c not in ("show", "bench", "cache")),
        "show graph",
        "show kernel",
        "bench train",
        "cache stats",
    ],
)
def test_every_command_speaks_json(home: Path, command: str) -> None:
    done = gptc(home, *command.split(), "--help", COLUMNS="200")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_weights_go_to_other_programs_and_back(home: Path) -> None:
    gptc(home, "train", TINY, "--data", "text.txt", "--steps", "2", "--run", "travel", "--save-every", "2")
    checkpoint = "travel/checkpoints/step-00000002"
    listed = one_object(gptc(home, "checkpoints", "travel", "--json"))["checkpoints"]
    assert [(each["step"], each["path"], each["problem"]) for each in listed] == [(2, checkpoint, None)]
    result = one_object(gptc(home, "export", checkpoint, "travel/hf", "--to", "hf", "--json"))
    assert result["written"] == ["travel/hf"]
    assert result["dims"] == {"V": 50, "T": 16, "L": 2, "H": 2, "C": 32}
    assert one_object(gptc(home, "import", "travel/hf", "travel/back", "--tokenizer", "bytes", "--json"))["ok"]
    found, expected = load_file(home / "travel" / "back"), load_file(home / checkpoint / "weights.safetensors")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    gptc(home, "export", checkpoint, "travel/llmc", "--to", "llmc")
    model, state = (f"travel/llmc/{name}.bin" for name in ("model_00000002", "state_00000002_00000"))
    arguments = (model, "travelled/checkpoints", "--state", state, "--tokenizer", "bytes", "--json")
    assert one_object(gptc(home, "import", *arguments))["ok"]
    flags = ("--data", "text.txt", "--steps", "4", "--run", "travelled", "--resume", "auto", "--json")
    assert one_object(gptc(home, "train", TINY, *flags, "--allow-change", "all"))["steps"] == 4
    (home / checkpoint / "weights.safetensors").unlink()
    assert gptc(home, "checkpoints", "travel").returncode == 5
    unknown = gptc(home, "import", "text.txt", "w")
    assert (unknown.returncode, "no pickles" in unknown.stderr) == (1, True)


# -- the way from a model to text ----------------------------------------------------------------------


def test_compile_reports_passes_memory_kernels_and_time(home: Path) -> None:
    done = gptc(home, "compile", TINY)
    assert done.returncode == 0
    assert re.fullmatch(r"(building unit \d+ of \d+\n)*", done.stderr)
    for words in ("passes of step", "differentiate", "lower bound", "arena / bound", "kernels;", "segments: params"):
        assert words in done.stdout
    folder = Path(done.stdout.splitlines()[-1].rpartition(": ")[2])
    assert (home / folder / "manifest.json").is_file()
    again = one_object(gptc(home, "compile", TINY, "--json"))
    assert (again["ok"], again["cached"], again["compiled_units"]) == (True, True, 0)
    assert Path(again["library"]).is_file()
    assert all(a["arena"] <= 1.05 * a["lower_bound"] for a in again["memory"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("compile", "--march", "pentium-9"), 1, "knows no instruction set 'pentium-9'"),
        (("compile", "--march", ""), 1, "knows no instruction set ''"),
        (("compile", "--march", "-O0 -fplugin=x.so"), 1, "knows no instruction set"),
        (("compile", "--march", "x86-64-v3", "--precision", "bf16"), 1, "help: use --precision f32"),
        (("diff", "--threads", "0"), 2, "Invalid value for '--threads'"),
        (("diff", "--threads", "-1"), 2, "Invalid value for '--threads'"),
        (("diff", "--threads", "1000000"), 1, "1000000 threads: must be in 1.."),
        (("train", "--data", "text.txt", "--threads", "1000000"), 1, "1000000 threads: must be in 1.."),
    ],
)
def test_machines_that_are_not_there(home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    if "x86-64-v3" in arguments and platform.machine() != "x86_64":
        pytest.skip("no compiler for x86")
    command, *flags = arguments
    done = gptc(home, command, TINY, *flags)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_any_number_of_threads(home: Path) -> None:
    """The instruction set is told, and no number of threads that a machine may have is wrong."""
    assert re.search(
        r"^target \S+ \(\S+ -march=native\), vectors of \d+ floats", gptc(home, "compile", TINY).stdout, re.M
    )
    found = [one_object(gptc(home, "diff", TINY, "--threads", n, "--json"))["worst"] for n in ("1", "3")]
    assert found[0] == found[1]


def test_train_then_generate(home: Path) -> None:
    trained = gptc(home, "train", TINY, "--data", "text.txt", "--steps", "12", "--val-every", "6", "--json")
    result = one_object(trained)
    assert trained.returncode == 0
    assert result["loss"] < np.log(50)
    assert re.search(r"lr +0\.01 +\S*tiny\.yaml:\d+", trained.stderr)
    assert re.search(r"steps +12 +--steps", trained.stderr)
    assert re.search(r"step 12: train loss [0-9.]+", trained.stderr)
    assert f"peak memory {result['peak_rss'] / 2**20:,.0f} MiB" in trained.stderr
    log = [json.loads(line) for line in (home / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if e["kind"] == "step"] == list(range(1, 13))
    assert [e["step"] for e in log if e["kind"] == "evaluation"] == [0, 6, 12]
    assert (log[0]["kind"], log[-1]["kind"]) == ("began", "ended")

    def text(*flags: str) -> str:
        return str(
            one_object(gptc(home, "generate", TINY, "--tokens", "20", "--prompt", "!", "--json", *flags))["text"]
        )

    assert len(text()) == 20
    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    assert text("--greedy") == text("--temperature", "0") == text("--top-k", "1", "--seed", "5")
    plain = gptc(home, "generate", TINY, "--tokens", "5", "--prompt", "!", "--greedy")
    assert plain.stdout.startswith("!" + text("--greedy")[:5])
    assert "5 tokens in" in plain.stderr


def test_the_same_losses_without_fusion_and_sharing(home: Path) -> None:
    losses = []
    for flags in ([], ["--no-fuse"], ["--plan", "naive"], ["--no-recognise", "--no-fuse", "--plan", "naive"]):
        done = gptc(home, "train", TINY, "--data", "text.txt", "--steps", "5", "--run", "other", "--json", *flags)
        losses.append(one_object(done)["loss"])
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


def test_threads_do_not_change_the_weights(home: Path) -> None:
    weights: list[dict[str, bytes]] = []
    for threads in ("1", "2", "3"):
        folder = home / f"threads{threads}"
        done = gptc(home, "train", TINY, "--data", "text.txt", "--steps", "8", "--run", folder, "--threads", threads)
        assert done.returncode == 0, done.stderr
        weights.append({name: w.tobytes() for name, w in load_file(folder / "weights.safetensors").items()})
    assert weights[0] == weights[1] == weights[2]


def test_diff_agrees(home: Path) -> None:
    result = one_object(gptc(home, "diff", TINY, "--json"))
    assert result["programs"] == ["evaluate", "step"]
    assert result["calls"] > 200
    assert 0 < result["worst"] <= 1


@pytest.mark.parametrize("view", ["graph", "passes", "plan", "kernels", "remarks"])
def test_show(home: Path, view: str) -> None:
    done = gptc(home, "show", view, TINY)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 5
    result = one_object(gptc(home, "show", view, TINY, "--json", "--program", "evaluate"))
    assert result["ok"]
    assert "evaluate" in json.dumps(result) or view == "kernels"
    assert "differentiate" not in json.dumps(result)


def test_show_kernel(home: Path) -> None:
    source = gptc(home, "show", "kernel", TINY, "adamw_decay")
    assert "void adamw_decay_" in source.stdout
    unknown = gptc(home, "show", "kernel", TINY, "adamw_decai_000000")
    assert unknown.returncode == 1
    assert "did you mean 'adamw_decay_" in unknown.stderr


def test_a_reader_that_leaves_is_no_failure(home: Path) -> None:
    argv = f"{sys.executable} -m gptc show graph {TINY} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", argv], cwd=home, env=environment(home), capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_opt_runs_passes(home: Path) -> None:
    shown = gptc(home, "show", "graph", TINY, "--program", "step", "--dump", "stages")
    assert shown.returncode == 0
    graph = (home / "stages/step/00-input.gir").read_text()
    (home / "built.gir").write_text(graph)
    done = gptc(home, "opt", "built.gir", "--passes", "simplify,recognise", "--dump", "dump")
    assert done.returncode == 0
    assert " = attention(" in done.stdout
    assert " = attention(" not in graph
    assert sorted(p.name for p in (home / "dump" / "00-step").iterdir())[-1] == "02-recognise.gir"
    stopped = one_object(
        gptc(home, "opt", "built.gir", "--passes", "simplify,recognise", "--stop-after", "simplify", "--json")
    )
    assert [p["pass_name"] for p in stopped["passes"]] == ["simplify"]


def test_schema_and_doctor_and_cache(home: Path) -> None:
    assert one_object(gptc(home, "schema", "--json"))["properties"].keys() >= {"model", "params", "graph", "train"}
    assert {f["what"] for f in one_object(gptc(home, "doctor", "--json"))["findings"]} >= {
        "C compiler",
        "OpenMP",
        "cache",
    }
    assert one_object(gptc(home, "cache", "stats", "--json"))["root"] == str(home / "cache")
    assert one_object(gptc(home, "cache", "verify", "--json"))["damaged"] == []


# -- mistakes --------------------------------------------------------------------------------------

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
    (["opt", "none.gir"], 5, "none.gir"),
    (["opt", "text.gir"], 1, "text.gir:1"),
    (["opt", "text.gir", "--passes", "simplfy"], 2, "did you mean 'simplify'?"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda a: str(a)[-60:])
def test_mistakes(home: Path, arguments: list[str | Path], code: int, message: str) -> None:
    (home / "small.txt").write_text("x\n")
    (home / "text.gir").write_text("hello\n")
    write_shard(home / "beyond.bin", np.array([0, 1, 2, 50] * 100, np.uint16))
    before = sorted(p for p in home.rglob("*") if "cache" not in p.parts and "build" not in p.parts)
    done = gptc(home, *arguments, COLUMNS="200")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    made = {p.name for p in home.rglob("*") if "cache" not in p.parts and "build" not in p.parts} - {
        p.name for p in before
    }
    assert made <= {"nan", "metrics.jsonl", "main.log"}, "something half-written stays behind"


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
        "gptc.model.load_model = broken\n"
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
        _, errors = process.communicate(timeout=60)
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
