"""Multiple choice: llm.c's file, its batches, and its score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError
from gptc.runtime.choices import ChoiceLoader, Question, read_questions, write_questions


def question(number: int, label: int = 0) -> Question:
    rng = np.random.default_rng(number)
    parts = [rng.integers(1, 50, rng.integers(1, 6)).astype(np.uint16) for _ in range(5)]
    return Question(parts[0], tuple(parts[1:]), label)


def llmc_bytes(questions: list[Question]) -> bytes:
    """As llm.c's `write_evalfile` puts them down, word by word."""
    stream: list[int] = []
    longest = 0
    for index, q in enumerate(questions):
        words = [65535, 0, index, q.label, len(q.endings), len(q.context), *q.context.tolist()]
        for ending in q.endings:
            words += [len(ending), *ending.tolist()]
        words[1] = 2 * len(words)
        longest = max(longest, words[1])
        stream += words
    header = np.zeros(256, np.int32)
    header[:4] = 20240522, 1, len(questions), longest
    return header.tobytes() + np.array(stream, np.uint16).tobytes()


def test_bytes_and_back(tmp_path: Path) -> None:
    questions = [question(k, k % 4) for k in range(10)]
    write_questions(tmp_path / "q.bin", questions)
    assert (tmp_path / "q.bin").read_bytes() == llmc_bytes(questions)
    write_questions(tmp_path / "again.bin", read_questions(tmp_path / "q.bin"))
    assert (tmp_path / "again.bin").read_bytes() == llmc_bytes(questions)


def test_rows_of_a_question(tmp_path: Path) -> None:
    """As llm.c lays them out: the last token of the context predicts the first of the ending."""
    context, *endings = (np.array(part, np.uint16) for part in ([7, 8], [1], [2, 3], [4, 5, 6], [9]))
    write_questions(tmp_path / "q.bin", [Question(context, tuple(endings), 2)])
    loader = ChoiceLoader(tmp_path / "q.bin", 5, 6, 10)
    batch = loader.batch(0)
    assert batch.inputs[:4].tolist() == [[7, 8, 1, 0, 0, 0], [7, 8, 2, 3, 0, 0], [7, 8, 4, 5, 6, 0], [7, 8, 9, 0, 0, 0]]
    assert batch.targets[:4].tolist() == [
        [0, 1, 0, 0, 0, 0],
        [0, 2, 3, 0, 0, 0],
        [0, 4, 5, 6, 0, 0],
        [0, 9, 0, 0, 0, 0],
    ]
    assert (batch.mask == (batch.targets > 0)).all()
    assert not batch.inputs[4].any()
    losses = np.full((5, 6), 9.0, np.float32)
    for row, values in enumerate(([3], [1, 2], [1.2, 1.2, 1.2], [1.3])):
        losses[row, 1 : 1 + len(values)] = values
    assert loader.correct(batch.means(losses)) == 1
    losses[2, 2] = 9
    assert loader.correct(batch.means(losses)) == 0
    losses[:4, 1:4] = 5.0
    assert loader.correct(batch.means(losses)) == 0  # all equal: the first


@pytest.mark.parametrize(("world", "batch"), [(1, 8), (2, 3), (3, 4), (5, 19), (13, 1)])
def test_ranks_share_the_questions(tmp_path: Path, world: int, batch: int) -> None:
    """Each ending once, in order, whatever the batch; a rank may have none."""
    questions = [question(k, k % 4) for k in range(11)]
    write_questions(tmp_path / "q.bin", questions)
    rows = iter([(q.context, ending) for q in questions for ending in q.endings])
    correct = 0
    for rank in range(world):
        loader = ChoiceLoader(tmp_path / "q.bin", batch, 16, 50, rank, world)
        assert loader.total == 11
        means: list[float] = []
        for part in map(loader.batch, range(loader.batches)):
            for inputs, targets, mask in zip(part.inputs, part.targets, part.mask, strict=True):
                context, ending = next(rows) if mask.any() else ([], [])
                assert inputs[: len(context) + len(ending)].tolist() == [*context, *ending]
                assert targets[mask].tolist() == list(ending)
            means += part.means(np.where(part.mask, part.targets, 99.0))
        correct += loader.correct(means)
    assert next(rows, None) is None
    expected = [int(np.argmin([ending.mean() for ending in q.endings])) == q.label for q in questions]
    assert correct == sum(expected)
    assert 0 < correct < 11


def test_what_does_not_fit_the_model(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.bin", [question(0), question(5)])
    longest = max(len(q.context) + max(map(len, q.endings)) for q in (question(0), question(5)))
    ChoiceLoader(tmp_path / "q.bin", 4, longest + 1, 50)
    with pytest.raises(InputError, match=rf"question \d has {longest} tokens; the model sees fewer than {longest}"):
        ChoiceLoader(tmp_path / "q.bin", 4, longest, 50)
    with pytest.raises(InputError, match=r"question 0 has the id \d+; the model has 20"):
        ChoiceLoader(tmp_path / "q.bin", 4, 64, 20)


def test_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "q.bin"
    good = llmc_bytes([question(0), question(1)])
    second = 1024 + int(np.frombuffer(good, "<u2", 1, 1026)[0])
    cases = {
        b"": "0 bytes; expected 1024",
        good[:-1]: "an even number",
        good[:-2]: "question 1 of 2, at byte",
        good + b"\0\0": "2 bytes after the last of 2 questions",
        b"\0" + good[1:]: "magic 20240384, version 1; expected 20240522, 1",
        good[:8] + b"\3" + good[9:]: "question 2 of 3",
        good[:8] + bytes(4) + good[12:]: "the header says 0 questions",
        good[:12] + b"\0\0" + good[14:]: "the header says 0",
        good[:second] + b"\0" + good[second + 1 :]: "question 1 of 2",
        good[:1026] + b"\0\0" + good[1028:]: "question 0 of 2",
        good[:1030] + b"\4" + good[1031:]: "question 0 of 2",
        good[:1032] + b"\5" + good[1033:]: "question 0 of 2",
        good[:1034] + b"\0" + good[1035:]: "question 0 of 2",
        good[:1036] + b"\xff\xff" + good[1038:]: "question 0 of 2",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"q.bin: .*{message}"):
            read_questions(path)
    with pytest.raises(InputError, match="no such file"):
        read_questions(tmp_path / "none.bin")
