"""What a model under training writes, by a model for inference beside it that gets its weights of now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gptc.errors import InputError
from gptc.runtime.generate import SEED, Sampling, generate
from gptc.runtime.model import Model
from gptc.runtime.store import store
from gptc.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampler:
    """Continues a prompt by `count` tokens; without one, the end of the text before, or a new line.

    Raises InputError at once where that cannot be.  The text depends on the weights and the step, on nothing else.
    """

    model: Model
    """For inference; with memory of its own, so that writing leaves nothing behind in the one that is trained."""
    codec: Tokenizer
    prompt: str | None
    count: int

    def __post_init__(self) -> None:
        known, written = self.codec.vocab_size, self.model.artefact.manifest.dims["V"]
        if known < written:
            message = f"cannot sample: the model may write {written} tokens; {self.codec.name} knows {known}"
            raise InputError.of(message, None, "train without --sample-every, or with another --tokenizer")
        generate(self.model, self._start(), self.count, Sampling())

    def write(self, trained: Model, step: int, turn: Callable[[], None] = lambda: None) -> str:
        """The prompt and what follows.  Calls `turn` after every token, for whoever waits."""
        own = {param.name: param for param in trained.artefact.manifest.params}
        for param in self.model.artefact.manifest.params:
            store(self.model, param, np.asarray(trained.valid(own[param.name])))
        found: list[int] = []
        for token in generate(self.model, self._start(), self.count, Sampling(seed=SEED + step)):
            found.append(token)
            turn()
        return (self.prompt or "") + self.codec.decode(found).decode("utf-8", "replace")

    def _start(self) -> list[int]:
        if self.prompt is None and self.codec.end_of_text is not None:
            return [self.codec.end_of_text]
        text = "\n" if self.prompt is None else self.prompt
        ids: list[int] = self.codec.encode(text.encode()).tolist()
        return ids
