"""Looking at a model under training: what it chooses is what NumPy finds, and looking changes no bit of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.ir.interp import interpret
from gptc.ir.types import Array, DType
from gptc.model import build_graph, load_description
from gptc.runtime.choices import ChoiceLoader, Question, write_questions
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data
from gptc.runtime.evaluation import endings
from gptc.runtime.events import Evaluation, Event, Sample, Score, Step
from gptc.runtime.loader import Loader
from gptc.runtime.sampler import Sampler
from gptc.runtime.settings import TrainSettings
from gptc.runtime.shard import Memory
from gptc.runtime.tokenizer import Bytes
from gptc.runtime.train import train
from tests.system.reference import rounding
from tests.system.workshop import NEEDS_BF16, TINY, Workshop

BATCH, SEQ, VOCABULARY = 2, 16, 61


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Question]]:
    """A file of nine, and what is in it."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(9):
        context, *rest = (rng.integers(0, VOCABULARY, rng.integers(1, 8)).astype(np.uint16) for _ in range(5))
        found.append(Question(context, tuple(rest), int(rng.integers(4))))
    path = tmp_path_factory.mktemp("choices") / "questions.bin"
    write_questions(path, found)
    return path, found


def mean_losses(model: CpuModel, questions: Sequence[Question], share: float = 0.0, seed: int = 0) -> Array:
    """f64[N,4] by the model file and the definition of cross entropy, with every weight off by `share` of itself."""
    pairs = [(question.context, ending) for question in questions for ending in question.endings]
    graph = build_graph(load_description(TINY), len(pairs), SEQ, with_loss=False)
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {"tokens": np.zeros((len(pairs), SEQ), np.int32)}
    for param in model.artefact.manifest.params:
        weights = model[param.name].astype(np.float64)
        feeds[param.name] = weights * (1 + share * random.choice([-1, 1], weights.shape))
    for row, (context, ending) in zip(feeds["tokens"], pairs, strict=True):
        row[: len(context) + len(ending)] = [*context, *ending]
    means = []
    for (context, ending), logits in zip(pairs, interpret(graph, feeds, wide=True)["logits"], strict=True):
        rows = logits[len(context) - 1 : len(context) + len(ending) - 1, :VOCABULARY]
        means.append(np.mean(np.log(np.exp(rows).sum(-1)) - rows[np.arange(len(ending)), ending]))
    return np.reshape(means, (-1, 4))


def test_choices_are_those_of_numpy(workshop: Workshop, questions: tuple[Path, list[Question]]) -> None:
    """Backward error: rounding is as if the weights had been others; so much do the losses move when they are."""
    path, asked = questions
    model = workshop.build().model()
    for param in model.artefact.manifest.params:
        model.valid(param)[...] *= 4.0
    loader = ChoiceLoader(path, BATCH, SEQ, VOCABULARY)
    expected = mean_losses(model, asked)
    share = rounding(build_graph(load_description(TINY), 1, SEQ, with_loss=False), DType.f32)
    bound = max(float(np.abs(mean_losses(model, asked, share, seed) - expected).max()) for seed in range(2))
    found = endings(model, loader)
    assert np.abs(np.reshape(found, (-1, 4)) - expected).max() <= bound
    ranked = np.sort(expected, axis=1)
    assert (ranked[:, 1] - ranked[:, 0]).min() > 2 * bound, "too close to tell"
    assert loader.correct(found) == sum(expected.argmin(1) == [q.label for q in asked])


@pytest.mark.parametrize(("precision", "micro"), [("f32", 4), pytest.param("bf16", 2, marks=NEEDS_BF16)])
def test_looking_changes_nothing(
    workshop: Workshop, questions: tuple[Path, list[Question]], precision: str, micro: int
) -> None:
    """The same bits with and without, events where llm.c has them; a sample depends on weights and step alone."""
    built = workshop.build(batch=BATCH, micro=micro, precision=precision)
    writer = workshop.build(TINY, batch=1, seq=96, mode="infer", precision=precision).model()
    sampler = Sampler(writer, Bytes(), None, 12)
    text = (np.random.default_rng(1).random(4000) ** 2 * VOCABULARY).astype(np.uint16)
    loader = Loader([Memory(text)], BATCH, SEQ, VOCABULARY)
    blind = Data("random tokens", loader, loader)
    seeing = replace(blind, choices=ChoiceLoader(questions[0], BATCH, SEQ, VOCABULARY))

    def run(data: Data, **looks: Any) -> tuple[CpuModel, list[Event]]:
        model, events = built.model(), []
        sampler = looks.pop("sampler", None)
        train(model, data, TrainSettings(10, eval_batches=2, **looks), events.append, sampler=sampler)
        return model, events

    plain, _ = run(blind)
    watched, events = run(seeing, eval_every=2, score_every=4, sample_every=3, sampler=sampler)
    for segment in ("params", "state"):
        assert watched.segment(segment).tobytes() == plain.segment(segment).tobytes()
    order = [(type(event).__name__, event.step) for event in events if not isinstance(event, Step)]
    assert [step for kind, step in order if kind == "Evaluation"] == [0, 2, 4, 6, 8, 10]
    assert [step for kind, step in order if kind == "Score"] == [4, 8, 10]
    assert [step for kind, step in order if kind == "Sample"] == [3, 6, 9, 10]
    assert [kind for kind, step in order if step == 10] == [kind.__name__ for kind in (Evaluation, Score, Sample)]
    texts = {event.step: event.text for event in events if isinstance(event, Sample)}
    assert texts[10] == sampler.write(watched, 10) != sampler.write(watched, 11)
    assert all(len(text) == 12 for text in texts.values())
    score = next(event for event in events if isinstance(event, Score) and event.step == 10)
    assert (score.correct, score.total) == (seeing.choices.correct(endings(watched, seeing.choices)), 9)
    assert score.accuracy == score.correct / 9
