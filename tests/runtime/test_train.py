"""Training and generation on the hand-written bigram model."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gptc.errors import InputError, NumericsError, StorageError
from gptc.runtime.cache import Cache
from gptc.runtime.choices import ChoiceLoader, Question, write_questions
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data, open_data
from gptc.runtime.evaluation import evaluate
from gptc.runtime.events import Evaluation, Event, Step
from gptc.runtime.generate import Sampling, choose, generate, probabilities
from gptc.runtime.rng import XorShift
from gptc.runtime.sampler import Sampler
from gptc.runtime.settings import TrainSettings, schedule_of
from gptc.runtime.tokenizer import Bytes
from gptc.runtime.train import train
from tests.runtime.conftest import loaded
from tests.runtime.toy import write_toy


@pytest.fixture
def data(tmp_path: Path) -> Data:
    path = tmp_path / "text"
    path.write_bytes(b"the quick brown fox jumps over the lazy dog. " * 100)
    return open_data(path, "bytes", 2, 8, 256)


def test_it_learns(model: CpuModel, data: Data, tmp_path: Path) -> None:
    events: list[Event] = []
    save = tmp_path / "w.safetensors"
    summary = train(model, data, TrainSettings(400, eval_every=100, eval_batches=3, save=save), events.append)
    steps = [event for event in events if isinstance(event, Step)]
    evaluations = [event for event in events if isinstance(event, Evaluation)]
    assert [event.step for event in steps] == list(range(1, 401))
    assert [event.step for event in evaluations] == [0, 100, 200, 300, 400]
    assert steps[0].loss == pytest.approx(math.log(256), rel=0.01)
    assert summary.val_loss == evaluations[-1].loss < evaluations[0].loss / 3
    assert summary.loss == steps[-1].loss
    assert summary.tokens == 400 * 16
    assert all(event.lr == 5.0 and event.tokens_per_second > 0 for event in steps)
    np.testing.assert_array_equal(load_file(save)["table"], model["table"][:, :256])


def test_it_is_deterministic(toy_models: tuple[CpuModel, CpuModel], data: Data) -> None:
    for model in toy_models:
        train(model, data, TrainSettings(20))
    first, second = (model.segment("params").tobytes() for model in toy_models)
    assert first == second


@pytest.fixture
def toy_models(model: CpuModel, shared_cache: Cache) -> tuple[CpuModel, CpuModel]:
    return model, loaded(model.artefact.folder, shared_cache)


def test_micro_steps_are_one_larger_batch(tmp_path: Path, shared_cache: Cache, data: Data) -> None:
    """Two micro-steps of the batches 2s and 2s+1 against the mean of their gradients, step by step."""
    accumulating = loaded(write_toy(tmp_path / "two", micro_steps=2), shared_cache)
    single = loaded(write_toy(tmp_path / "one"), shared_cache)
    events: list[Event] = []
    train(accumulating, data, TrainSettings(3, lr=1.0), events.append)
    for step in range(3):
        start = single.segment("params").copy()
        losses, ends = [], []
        for micro in range(2):
            single.segment("params")[...] = start
            single["tokens"][...], single["targets"][...] = data.train.batch(2 * step + micro)
            single["lr"][...] = 1.0
            single.run("step")
            losses.append(float(single["loss"]))
            ends.append(single.segment("params").view(np.float32).copy())
        single.segment("params").view(np.float32)[...] = (ends[0] + ends[1]) / 2
        assert isinstance(events[step], Step)
        assert events[step].loss == pytest.approx(np.mean(losses), rel=1e-6)
    np.testing.assert_allclose(accumulating["table"], single["table"], rtol=1e-5, atol=1e-7)


def test_evaluation_changes_nothing(model: CpuModel, data: Data) -> None:
    before = model.segment("params").tobytes()
    assert evaluate(model, data.val, 5) == evaluate(model, data.val, 5)
    everything = evaluate(model, data.val, data.val.samples)
    assert evaluate(model, data.val, data.val.samples + 1) == everything  # no batch counts twice
    assert model.segment("params").tobytes() == before


def test_overfitting_one_batch(tmp_path: Path, shared_cache: Cache, data: Data) -> None:
    """Every step learns from the micro-batches of the first, llm.c's `-a 1`; the loss only falls."""
    model = loaded(write_toy(tmp_path / "toy", micro_steps=2), shared_cache)
    losses: list[float] = []
    inputs, _ = data.train.batch(1)

    def report(event: Event) -> None:
        if isinstance(event, Step):
            losses.append(event.loss)
            np.testing.assert_array_equal(model["tokens"], inputs)

    train(model, data, TrainSettings(20, lr=1.0, overfit_batch=True), report)
    assert all(after < before for before, after in pairwise(losses))


def test_questions_need_a_loss_at_each_position(model: CpuModel, data: Data, tmp_path: Path) -> None:
    one = np.ones(1, np.uint16)
    write_questions(tmp_path / "q.bin", [Question(one, (one, one, one, one), 0)])
    choices = ChoiceLoader(tmp_path / "q.bin", 2, 8, 256)
    with pytest.raises(InputError, match="toy does not tell the loss at each position"):
        train(model, replace(data, choices=choices), TrainSettings(1))


def test_settings_over_defaults(model: CpuModel) -> None:
    assert schedule_of(model.artefact, TrainSettings(10))(3) == 5.0
    chosen = schedule_of(model.artefact, TrainSettings(10, lr=1.0, schedule="linear", warmup=2, final_lr_frac=0.5))
    assert [chosen(step) for step in (0, 1, 2, 6, 10)] == [0.5, 1.0, 1.0, 0.75, 0.5]
    with pytest.raises(InputError, match="steps >= 1"):
        TrainSettings(0)
    with pytest.raises(InputError, match="unknown schedule"):
        schedule_of(model.artefact, TrainSettings(1, schedule="sudden"))


@pytest.mark.parametrize("where", ["table", "bias"])
def test_stops_where_numbers_end(model: CpuModel, data: Data, tmp_path: Path, where: str) -> None:
    def poison(event: Event) -> None:
        if isinstance(event, Step) and event.step == 7:
            model[where][...] = np.nan

    save = tmp_path / "w.safetensors"
    with pytest.raises(
        NumericsError, match=f"step 8: the loss is nan; the first.* not finite is {where} f32"
    ) as caught:
        train(model, data, TrainSettings(20, save=save), poison)
    assert "it was so before the step" in str(caught.value)
    assert not save.exists()


def test_no_weights_after_a_last_step_that_broke(model: CpuModel, data: Data, tmp_path: Path) -> None:
    save = tmp_path / "w.safetensors"
    with pytest.raises(NumericsError, match="step 1: the validation loss is nan"):
        train(model, data, TrainSettings(1, lr=3e38, save=save))
    assert not save.exists()


def test_an_unwritable_place_is_told_before_the_first_step(model: CpuModel, data: Data, tmp_path: Path) -> None:
    def never(event: Event) -> None:
        raise AssertionError

    with pytest.raises(StorageError, match="no such folder"):
        train(model, data, TrainSettings(1, save=tmp_path / "no/where"), never)


# Generation.


@pytest.fixture
def speaker(tmp_path: Path, shared_cache: Cache) -> CpuModel:
    """An inference model whose likeliest successor of byte i is i + 1; of 255 it is 0."""
    model = loaded(write_toy(tmp_path / "speaker", infer=True), shared_cache)
    model["table"][...] = 0
    model["table"][np.arange(256), (np.arange(256) + 1) % 256] = 4.0
    return model


def test_greedy(speaker: CpuModel) -> None:
    tokens = list(generate(speaker, [250], 12, Sampling(temperature=0)))
    assert tokens == [251, 252, 253, 254, 255, *range(7)]  # past 0..T-1 into the window, and never a padded id
    assert list(generate(speaker, list(range(100)), 2, Sampling(temperature=0))) == [100, 101]


def test_seeds(speaker: CpuModel) -> None:
    runs = [list(generate(speaker, [65], 40, Sampling(seed=seed))) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert all(0 <= token < 256 for run in runs for token in run)
    assert list(generate(speaker, [65], 9, Sampling(top_k=1))) == list(range(66, 75))


def test_samples_of_a_model_under_training(model: CpuModel, speaker: CpuModel) -> None:
    """Its weights of now, whatever the speaker had; a prompt that cannot be is told before anything is trained."""
    model["table"][...] = 0
    model["table"][np.arange(256), np.arange(256) // 2] = 1e3
    assert Sampler(speaker, Bytes(), "P", 3).write(model, 5) == "P" + "".join(map(chr, (40, 20, 10)))
    assert Sampler(speaker, Bytes(), None, 2).write(model, 5) == "\5\2"  # after a new line
    with pytest.raises(InputError, match="the prompt is empty"):
        Sampler(speaker, Bytes(), "", 3)
    few = Bytes()
    few.vocab_size = 255
    with pytest.raises(InputError, match="the model may write 256 tokens; bytes knows 255"):
        Sampler(speaker, few, None, 3)


@pytest.mark.parametrize(("prompt", "count"), [([], 1), ([-1], 1), ([256], 1), ([1], 0)])
def test_bad_requests_fail_at_once(speaker: CpuModel, prompt: list[int], count: int) -> None:
    with pytest.raises(InputError):
        generate(speaker, prompt, count, Sampling())


def test_a_training_artefact_cannot_speak(model: CpuModel) -> None:
    with pytest.raises(InputError, match="no program 'logits'"):
        generate(model, [1], 1, Sampling())


def test_broken_weights_are_told(speaker: CpuModel) -> None:
    speaker["bias"][3] = np.nan
    with pytest.raises(NumericsError, match="largest logit is nan"):
        next(generate(speaker, [1], 1, Sampling()))


LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
        (Sampling(temperature=1e-300), [0, 1, 0, 0]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=100), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_p=1e-9), [0, 1, 0, 0]),
        (Sampling(top_k=3, top_p=0.7), [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_filters(sampling: Sampling, expected: list[float]) -> None:
    np.testing.assert_allclose(probabilities(LOGITS, sampling), expected, rtol=1e-6, atol=1e-12)


def test_ties_keep_the_lower_ids() -> None:
    assert probabilities(np.zeros(5, np.float32), Sampling(top_k=2)).tolist() == [0.5, 0.5, 0, 0, 0]
    masked = np.array([-np.inf, 0, -np.inf], np.float32)
    assert probabilities(masked, Sampling()).tolist() == [0, 1, 0]


def test_choices_follow_the_distribution() -> None:
    rng, probs = XorShift(7), np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    counts = np.bincount([choose(probs, rng) for _ in range(4000)], minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(counts[1] - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 2},
    ],
)
def test_bad_sampling(fields: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Sampling(**fields)  # type: ignore[arg-type]
