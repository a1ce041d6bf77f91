"""The native trainer: the same numbers as the Python runtime, and one clear line for everything that can be wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.compiler import Compiled, build_model
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import open_data
from gptc.runtime.events import Evaluation, Event
from gptc.runtime.init import initialise
from gptc.runtime.rng import Mt19937
from gptc.runtime.schedule import Schedule
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import write_shard
from gptc.runtime.train import train
from gptc.runtime.weights import load_weights

STEPS = 40
"""More than an epoch, so that the order of the second is compared too."""


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tokens.bin"
    write_shard(path, (np.arange(900) * 7 % 50).astype(np.uint16))
    return path


@pytest.fixture(scope="session")
def trainers(tiny: Compiled, accumulating: Compiled, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which `make` has run."""
    return {
        name: make(compiled, tmp_path_factory.mktemp("made") / name)
        for name, compiled in (("tiny", tiny), ("accumulating", accumulating))
    }


def make(compiled: Compiled, folder: Path) -> Path:
    shutil.copytree(compiled.artefact.folder, folder)
    subprocess.run(["make", "-s", "-j2"], cwd=folder, check=True)
    return folder


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["./train", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False)


def test_keeps_weights_in_bf16(narrow: Compiled, shard: Path, cache: Cache, tmp_path: Path) -> None:
    """Initial weights, random bits and the file of weights are those of the Python trainer."""
    saved = tmp_path / "weights.safetensors"
    done = run(make(narrow, tmp_path / "narrow"), "--data", shard, "--steps", "5", "--save", saved)
    assert done.returncode == 0, done.stderr
    model = CpuModel(narrow.artefact, build_model(narrow, cache).library)
    initialise(model)
    dims = narrow.artefact.manifest.dims
    train(model, open_data(shard, "bytes", dims["B"], dims["T"], dims["V"]), TrainSettings(5))
    theirs = load_file(saved)
    assert {"float32", "bfloat16"} == {str(tensor.dtype) for tensor in theirs.values()}
    for param in narrow.artefact.manifest.params:
        assert theirs[param.name].tobytes() == model.valid(param).tobytes(), param.name


@pytest.mark.parametrize("which", ["tiny", "accumulating"])
def test_takes_the_steps_of_the_python_trainer(
    which: str, trainers: dict[str, Path], shard: Path, cache: Cache, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    compiled: Compiled = request.getfixturevalue(which)
    saved = tmp_path / "weights.safetensors"
    done = run(trainers[which], "--data", shard, "--steps", str(STEPS), "--val-every", "7", "--save", saved)
    assert done.returncode == 0, done.stderr
    model = CpuModel(compiled.artefact, build_model(compiled, cache).library)
    initialise(model)
    dims = compiled.artefact.manifest.dims
    data = open_data(shard, "bytes", dims["B"], dims["T"], dims["V"])
    lines: list[str] = []

    def report(event: Event) -> None:
        evaluation = isinstance(event, Evaluation)
        lines.append(f"val loss {event.loss:.6f}" if evaluation else f"step {event.step}: train loss {event.loss:.6f}")

    train(model, data, TrainSettings(STEPS, eval_every=7), report)
    assert [re.sub(r" \(took .*", "", s) for s in done.stdout.splitlines() if re.match("step|val loss", s)] == lines
    assert re.search(rf"^{STEPS} steps in [0-9.]+ s; peak memory [1-9]\d* MiB$", done.stdout, re.MULTILINE)
    theirs = load_file(saved)
    for param in compiled.artefact.manifest.params:
        assert np.array_equal(theirs[param.name], model.valid(param)), param.name
    assert load_weights(model, saved)["step"] == str(STEPS)


def test_validation_data_of_its_own(trainers: dict[str, Path], shard: Path, tiny: Compiled, cache: Cache) -> None:
    """Then all of the shard is trained on, and the losses are again those of the Python trainer."""
    apart = shard.with_name("val.bin")
    write_shard(apart, (np.arange(200) * 11 % 50).astype(np.uint16))
    done = run(trainers["tiny"], "--data", shard, "--val-data", apart, "--steps", "3", "--val-every", "3")
    assert done.returncode == 0, done.stderr
    model = CpuModel(tiny.artefact, build_model(tiny, cache).library)
    initialise(model)
    dims = tiny.artefact.manifest.dims
    data = open_data(shard, "bytes", dims["B"], dims["T"], dims["V"], val=apart)
    losses: list[float] = []
    train(model, data, TrainSettings(3, eval_every=3), lambda event: losses.append(event.loss))  # type: ignore[union-attr]
    theirs = re.findall(r"(?:train|val) loss ([0-9.]+)", done.stdout)
    assert theirs == [f"{loss:.6f}" for loss in losses]
    assert f"train dataset num_batches: {data.train.samples}" in done.stdout
    assert data.train.samples == 899 // (dims["B"] * dims["T"])


def test_the_loss_falls(trainers: dict[str, Path], shard: Path) -> None:
    """The corpus is a cycle: once that is learnt, the next token is certain."""
    done = run(trainers["tiny"], "--data", shard, "--steps", "300")
    losses = [float(loss) for loss in re.findall(r"step \d+: train loss ([0-9.]+)", done.stdout)]
    assert len(losses) == 300
    assert losses[0] == pytest.approx(np.log(50), abs=0.3)
    assert losses[-1] < 0.1


def test_threads_do_not_change_a_bit(trainers: dict[str, Path], shard: Path, tmp_path: Path) -> None:
    saved = []
    for threads in ("1", "2", "3", "4"):
        path = tmp_path / threads
        arguments = ["./train", "--data", str(shard), "--steps", "20", "--save", str(path)]
        subprocess.run(
            arguments, cwd=trainers["tiny"], env={"OMP_NUM_THREADS": threads}, check=True, capture_output=True
        )
        saved.append(path.read_bytes())
    assert saved[0] == saved[1] == saved[2] == saved[3]


def corrupt(path: Path, shard: Path, at: int, value: bytes) -> Path:
    data = bytearray(shard.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def test_says_what_is_wrong(trainers: dict[str, Path], shard: Path, tmp_path: Path) -> None:
    folder = trainers["tiny"]
    short, beyond = tmp_path / "short.bin", corrupt(tmp_path / "beyond", shard, 1024 + 2 * 33, b"\x32\x00")
    write_shard(short, np.zeros(20, np.uint16))
    magic, cut = corrupt(tmp_path / "magic", shard, 0, b"\1\2\3\4"), tmp_path / "cut"
    cut.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / "stub").write_bytes(b"ab")
    cases: list[tuple[list[str | Path], int, str]] = [
        ([], 2, "--data FILE is needed"),
        (["--data"], 2, "see ./train --help"),
        (["--data", shard, "--steps", "x"], 2, "--steps takes a whole number from 1, not 'x'"),
        (["--data", shard, "--lr", "nan"], 2, "--lr takes a number from 0"),
        (["--data", shard, "--schedule", "steps"], 2, "--schedule takes constant, cosine, linear, step or wsd"),
        (["--data", shard, "--schedule", "step"], 2, "--schedule step needs --step-size"),
        (["--data", shard, "more"], 2, "'more' belongs to no option"),
        (["--data", tmp_path / "none"], 5, "cannot read: No such file"),
        (["--data", tmp_path], 1, "not a regular file"),
        (["--data", tmp_path / "stub"], 1, "too short for the header"),
        (["--data", magic], 1, "not a GPT-2 token shard"),
        (["--data", cut], 1, "the header says 900 tokens, so 2824 bytes; the file has 2823"),
        (["--data", beyond], 1, "token 33 is 50; the model has 50"),
        (["--data", short], 1, "20 tokens; batches of 2 x 12 need at least 50"),
        (["--data", shard, "--val-data", short], 1, "short.bin: 20 tokens; batches of 2 x 12 need at least 25"),
        (["--data", shard, "--save", tmp_path / "no" / "folder"], 5, "cannot write: No such file"),
        (["--data", shard, "--lr", "1e6", "--schedule", "constant", "--steps", "500"], 4, "lower the learning rate"),
    ]
    for arguments, code, message in cases:
        done = run(folder, *arguments)
        assert (done.returncode, message in done.stderr) == (code, True), (arguments, done.returncode, done.stderr)
    crowd = {"OMP_NUM_THREADS": "100000"}
    done = subprocess.run(
        ["./train", "--data", shard], cwd=folder, env=crowd, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "100000 threads on" in done.stderr) == (1, True)
    assert "--val-batches N" in run(folder, "--help").stdout


# -- its parts, against the runtime's ------------------------------------------------------------------

HARNESS = """
#include "failure.h"
#include "random.h"
#include "schedule.h"
#include "tokens.h"
int main(void)
{
    static float x[64];
    struct mt19937 r;
    mt19937_seed(&r, 137);
    for (int i = 0; i < 5; i++)
        printf("%u ", mt19937_next(&r));
    for (int n = 1; n < 50; n++) {
        random_normal(&r, x, n, 0.5f);
        for (int i = 0; i < n; i++)
            printf("%a ", (double)x[i]);
    }
    static uint16_t tokens[1200];
    struct loader l = loader_open(tokens, 1193, 1, 1);
    loader_shuffle(&l);
    for (int i = 0; i < 10; i++)
        printf("%d ", (int)l.order[i]);
    free(l.order);
    for (int k = 0; k < 5; k++)
        for (long step = 0; step <= 100; step++) {
            const struct schedule s = {SCHEDULES[k], 6e-4, 0.1, 100, 10, 30, 0.25};
            printf("%.17g ", schedule_rate(&s, step));
        }
    return shard_read("/dev/null", 1).count > 0;
}
"""


def test_random_numbers_order_and_schedules(tiny: Compiled, tmp_path: Path) -> None:
    (tmp_path / "harness.c").write_text(HARNESS)
    include = f"-I{tiny.artefact.folder / 'include'}"
    argv = ["cc", "-std=gnu11", "-O2", "-fopenmp", "-ffp-contract=off", include, "harness.c", "-o", "harness", "-lm"]
    subprocess.run(argv, cwd=tmp_path, check=True)
    done = subprocess.run(["./harness"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/dev/null: not a regular file" in done.stderr
    words = iter(done.stdout.split())
    rng = Mt19937(137)
    assert [int(next(words)) for _ in range(5)] == [4053805790, 2173880614, 380293709, 1237255315, 2986595568]
    rng.skip(5)
    for n in range(1, 50):
        assert [float.fromhex(next(words)) for _ in range(n)] == rng.normal(n, 0.5).tolist()
    assert [int(next(words)) for _ in range(10)] == [408, 791, 914, 1057, 81, 450, 299, 907, 582, 321]
    for kind in ("constant", "cosine", "linear", "step", "wsd"):
        schedule = Schedule(kind, 6e-4, 100, 10, 0.1, 30, 0.25)
        for step in range(101):
            assert float(next(words)) == pytest.approx(schedule(step), rel=1e-14)
