"""The command line as a user meets it: help, JSON, and the way from a model to text."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from gptc.cli import EXAMPLES, app
from gptc.errors import GptcError
from tests.cli.command import environment, gptc, one_object
from tests.conftest import TINY

# -- help ------------------------------------------------------------------------------------------


def every_command(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Words after `gptc`, and the command that they name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, f"{before}{name} ")
        else:
            yield before + name, command


LEAVES = dict(every_command(typer.main.get_command(app)))


def test_help_names_every_command_and_exit_code() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert all(re.search(rf"\b{name.split()[0]}\b", shown) for name in LEAVES)
    codes = {error.code for error in (GptcError, *GptcError.__subclasses__())}
    assert all(re.search(rf"\b{code} \w", shown) for code in codes)


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_speaks_json_and_is_described(name: str) -> None:
    command = LEAVES[name]
    assert "--json" in {flag for parameter in command.params for flag in parameter.opts}
    assert command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params), name
    assert all(parameter.metavar is not None for parameter in command.params), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_understood(name: str) -> None:
    words = shlex.split(EXAMPLES[name])
    assert words[: 1 + len(name.split())] == ["gptc", *name.split()]
    LEAVES[name].make_context(name, words[1 + len(name.split()) :])  # raises where a word means nothing


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
    for weights, positions in ((f"{checkpoint}/weights.safetensors", 12), ("travel/back", 16)):
        flags = ("--weights", weights, "--tokens", "1", "--prompt", "!" * 20)
        said = gptc(home, "generate", TINY, *flags).stderr
        assert f"1 token: the last {positions} of 20 tokens of prompt" in said  # as many as its weights have learned
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
        r"^target \S+ \(\S+ -march=native\), vectors of \d+ floats", gptc(home, "compile", TINY).stdout, re.MULTILINE
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
    line = r"s:\d+ (tel:[\d.]+|trl:[\d.]+ lr:[\d.]+ norm:[\d.]+)\n"
    assert re.fullmatch(f"({line}){{15}}", (home / "runs" / "tiny" / "main.log").read_text())
    page = one_object(gptc(home, "report", "runs/tiny", "--json"))
    assert page["runs"] == [{"run": "tiny", "steps": 12, "torn": False}]
    assert f"{result['val_loss']:.4f}" in (home / page["report"]).read_text()

    def text(*flags: str) -> str:
        return str(
            one_object(gptc(home, "generate", TINY, "--tokens", "20", "--prompt", "!", "--json", *flags))["text"]
        )

    assert len(text()) == 20
    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    assert text("--greedy") == text("--temperature", "0") == text("--top-k", "1", "--seed", "5")
    small = ("--greedy", "--precision", "int8", "--target", "auto")
    plain = gptc(home, "generate", TINY, "--tokens", "5", "--prompt", "!", *small)
    assert plain.stdout == "!" + text(*small)[:5] + "\n"
    assert "target c: weights in 8 bits are for CPUs" in plain.stderr  # and not between the text
    assert re.search(r"^5 tokens: 1 token of prompt in [\d.]+ ms, then [\d,.]+ tokens/s$", plain.stderr, re.MULTILINE)


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


def show(home: Path, *arguments: str) -> Result:
    """`gptc show` in this process: what it shows was compiled by no other."""
    return CliRunner().invoke(app, ["show", *arguments], env={"GPTC_CACHE_DIR": str(home / "cache")})


@pytest.mark.parametrize("view", ["graph", "passes", "plan", "kernels", "remarks"])
def test_show(home: Path, view: str) -> None:
    done = show(home, view, str(TINY))
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5
    asked = show(home, view, str(TINY), "--json", "--program", "evaluate").stdout
    assert json.loads(asked)["ok"]
    assert asked.count("\n") == 1
    assert "evaluate" in asked or view == "kernels"
    assert "differentiate" not in asked
    unknown = show(home, view, str(TINY), "--program", "evaluat")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "did you mean 'evaluate'?" in unknown.stderr


def test_a_plan_is_told_in_short_and_in_full(home: Path) -> None:
    short, full, data = (show(home, "plan", str(TINY), *flags).stdout for flags in ((), ("--all",), ("--json",)))
    assert len(short.splitlines()) < 40
    assert re.search(r"^fullest at call \d+ of \d+, \w+, \S*tiny\.yaml:\d+:\d+$", short, re.MULTILINE)
    values = [v["name"] for p in json.loads(data)["programs"] for v in p["values"]]
    assert [line.split()[0] for line in full.splitlines() if " + " in line] == values


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
    assert max(p.name for p in (home / "dump" / "00-step").iterdir()) == "02-recognise.gir"
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
