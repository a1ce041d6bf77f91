"""Multiple choice in llm.c's format, as HellaSwag: which of four endings does the model find the likeliest?

The file has a header of 256 little-endian int32 (magic, version, number of questions, bytes of the longest), then for
each question a run of uint16: 65535, its bytes, its number, the label, 4, the length of the context and the context,
and for each ending its length and the ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError
from gptc.runtime.atomic import replacing
from gptc.runtime.bounded import read_bounded

MAGIC, VERSION = 20240522, 1
HEADER_BYTES = 1024
START = 65535
ENDINGS = 4
MAX_QUESTIONS = 65535
MAX_BYTES = 65534
"""Of a question: its length stands in a uint16, and is even."""
MAX_FILE_BYTES = HEADER_BYTES + MAX_QUESTIONS * MAX_BYTES

Ids = NDArray[np.uint16]


@dataclass(frozen=True)
class Question:
    """Token ids of the context and of each ending, and which of these is right."""

    context: Ids
    endings: tuple[Ids, ...]
    label: int


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write the file, whole or not at all.  Raises InputError where something does not fit the format."""
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise InputError.of(f"{path}: {len(questions)} questions; a file holds 1 to {MAX_QUESTIONS}")
    words: list[NDArray[np.integer]] = []
    longest = 0
    for number, question in enumerate(questions):
        parts = (question.context, *question.endings)
        if len(question.endings) != ENDINGS or not 0 <= question.label < ENDINGS or not all(map(len, parts)):
            raise InputError.of(f"{path}: question {number} needs a context, {ENDINGS} endings, and which is right")
        size = 2 * (5 + sum(1 + len(part) for part in parts))
        if size > MAX_BYTES or max(int(part.max()) for part in parts) >= START:
            raise InputError.of(f"{path}: question {number} has {size} bytes, or an id that is not below {START}")
        words.append(np.array([START, size, number, question.label, ENDINGS]))
        for part in parts:
            words += [np.array([len(part)]), part]
        longest = max(longest, size)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:4] = MAGIC, VERSION, len(questions), longest
    with replacing(path) as temporary:
        temporary.write_bytes(header.tobytes() + np.concatenate(words).astype("<u2").tobytes())


def read_questions(path: Path) -> tuple[Question, ...]:
    """All questions.  Raises InputError that says what is wrong, and with which."""
    data = read_bounded(path, MAX_FILE_BYTES, "questions")
    if len(data) < HEADER_BYTES or len(data) % 2:
        raise InputError.of(f"{path}: {len(data)} bytes; expected {HEADER_BYTES} of header and an even number more")
    magic, version, count, longest = (int(word) for word in np.frombuffer(data, "<i4", 4))
    if (magic, version) != (MAGIC, VERSION):
        found = f"magic {magic}, version {version}; expected {MAGIC}, {VERSION}"
        raise InputError.of(f"{path}: no questions of llm.c ({found})")
    if not 1 <= count <= MAX_QUESTIONS:
        raise InputError.of(f"{path}: the header says {count} questions; expected 1 to {MAX_QUESTIONS}")
    words, at, sizes = np.frombuffer(data, "<u2", offset=HEADER_BYTES), 0, []
    questions = []
    for number in range(count):
        size = int(words[at + 1]) if at + 1 < len(words) else 0
        run = words[at : at + size // 2]
        question = _parse(run, number) if 2 * len(run) == size > 0 else None
        if question is None:
            place = f"{path}: question {number} of {count}, at byte {HEADER_BYTES + 2 * at}"
            raise InputError.of(f"{place}: not {START}, bytes, {number}, label, {ENDINGS}, and five runs of ids")
        questions.append(question)
        sizes.append(size)
        at += size // 2
    if at != len(words) or longest != max(sizes):
        left = f"{2 * (len(words) - at)} bytes after the last of {count} questions"
        message = f"{left}; the longest has {max(sizes)} bytes, the header says {longest}"
        raise InputError.of(f"{path}: {message}")
    return tuple(questions)


def _parse(run: NDArray[np.uint16], number: int) -> Question | None:
    """The question in a run of words; None where it is none."""
    start, size, index, label, endings = (int(word) for word in run[:5]) if len(run) > 5 else (0,) * 5
    if (start, size, index, endings) != (START, 2 * len(run), number, ENDINGS) or label >= ENDINGS:
        return None
    parts: list[Ids] = []
    at = 5
    for _ in range(1 + ENDINGS):
        length = int(run[at]) if at < len(run) else 0
        part = run[at + 1 : at + 1 + length]
        if not 0 < length == len(part) or part.max() >= START:
            return None
        parts.append(part)
        at += 1 + length
    return Question(parts[0], tuple(parts[1:]), label) if at == len(run) else None


@dataclass(frozen=True)
class ChoiceBatch:
    """One row an ending: the context and the ending, zeros after them.

    `mask` is where `targets` are tokens of the ending: the loss there counts.  Rows behind the last ending are empty.
    """

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    mask: NDArray[np.bool_]

    def means(self, losses: NDArray[np.floating]) -> list[float]:
        """The mean loss of each ending over its tokens, from the losses [B,T] of every position."""
        used = self.mask.any(axis=1)
        sums = np.where(self.mask, losses, 0).sum(axis=1, dtype=np.float64)
        means: list[float] = (sums[used] / self.mask.sum(axis=1)[used]).tolist()
        return means


class ChoiceLoader:
    """The endings of one rank's share of the questions, in their order, in batches of B."""

    def __init__(self, path: Path, batch: int, seq: int, vocab: int, rank: int = 0, world: int = 1) -> None:
        questions = read_questions(path)
        for number, question in enumerate(questions):
            most = len(question.context) + max(map(len, question.endings))
            if most >= seq:
                message = f"{path}: question {number} has {most} tokens; the model sees fewer than {seq}"
                raise InputError.of(message, None, "compile the model with a longer --seq")
            largest = max(int(part.max()) for part in (question.context, *question.endings))
            if largest >= vocab:
                raise InputError.of(f"{path}: question {number} has the id {largest}; the model has {vocab}")
        share = -(-len(questions) // world)
        own = questions[rank * share : (rank + 1) * share]
        self._shape = batch, seq
        self._rows = [(question.context, ending) for question in own for ending in question.endings]
        self._labels = [question.label for question in own]
        self.total = len(questions)
        """Over all ranks."""
        self.batches = -(-len(self._rows) // batch)

    def batch(self, index: int) -> ChoiceBatch:
        """Batch number `index`, of `batches`."""
        inputs, targets = np.zeros(self._shape, np.int32), np.zeros(self._shape, np.int32)
        mask = np.zeros(self._shape, np.bool_)
        size = self._shape[0]
        for row, (context, ending) in enumerate(self._rows[index * size : (index + 1) * size]):
            start, stop = len(context), len(context) + len(ending)
            inputs[row, :start], inputs[row, start:stop] = context, ending
            targets[row, start - 1 : stop - 1] = ending
            mask[row, start - 1 : stop - 1] = True
        return ChoiceBatch(inputs, targets, mask)

    def correct(self, means: Sequence[float]) -> int:
        """How many questions are answered rightly, given the mean losses of all batches in their order.

        The ending with the lowest is chosen, the first of equal ones, as in llm.c.
        """
        chosen = np.reshape(means, (-1, ENDINGS)).argmin(axis=1)
        return int((chosen == self._labels).sum())
