"""Text from a trained model: one token at a time, each from the logits after all that came before.

The model sees a window of at most T tokens that ends with the newest.  It begins with the last T of the prompt; when
it is full, it moves to the last T/2, so that their positions are computed again once in T/2 tokens and not for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, NumericsError
from gptc.runtime.model import Model
from gptc.runtime.rng import XorShift

SEED = 1337  # llm.c's


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.  Temperature 0 takes the likeliest; the filters apply in the order given here."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = SEED

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError.of(f"temperature {self.temperature} must be finite and >= 0", None, "0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise InputError.of(f"top-k {self.top_k} must be >= 1")
        if not 0 < self.top_p <= 1:
            raise InputError.of(f"top-p {self.top_p} must be in (0, 1]")


def probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The distribution over the vocabulary, f64[V], after temperature, top-k and top-p; of equals, lower ids stay."""
    scores: NDArray[np.float64] = logits.astype(np.float64)
    best = scores.max()
    if not math.isfinite(best):  # max() passes a NaN on
        raise NumericsError.of(f"the model's largest logit is {best}", None, "are these the weights of this model?")
    if sampling.temperature == 0:
        chosen = np.zeros_like(scores)
        chosen[scores.argmax()] = 1.0
        return chosen
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature sends all but the best to exp(-inf) = 0
        probs: NDArray[np.float64] = np.exp((scores - best) / sampling.temperature)
    order = np.argsort(-scores, kind="stable")
    if sampling.top_k is not None:
        probs[order[sampling.top_k :]] = 0.0
    probs /= probs.sum()
    if sampling.top_p < 1:  # the fewest likeliest tokens that together reach top_p
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= sampling.top_p]] = 0.0
        probs /= probs.sum()
    return probs


def choose(probs: NDArray[np.float64], rng: XorShift) -> int:
    """One index, by inverting the cumulative distribution at a uniform draw."""
    cumulative = np.cumsum(probs)
    index = int(np.searchsorted(cumulative, rng.uniform() * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(probs)[-1]))


class Recomputed:
    """Logits from a program that computes the whole window each time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.program = model.artefact.program("logits").name

    def logits(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """f32[Vp] after `tokens[start:]`, at most T of them."""
        window, ids = tokens[start:], self.model["tokens"]
        ids[0, : len(window)] = window
        ids[0, len(window) :] = 0  # later positions: causal attention never looks there
        self.model.run(self.program)
        row: NDArray[np.float32] = self.model["logits"][0, len(window) - 1]
        return row


class Cached:
    """Logits from programs that keep the keys and values of the tokens before: only new tokens are computed."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.start = 0
        self.done = 0
        """Tokens of the window from `start` that are in the caches."""

    def logits(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """f32[Vp] after `tokens[start:]`, at most T of them.  `tokens` may only have grown since the last call."""
        if start != self.start:
            self.start, self.done = start, 0
        window = tokens[start:]
        while self.done < len(window):
            if len(window) - self.done == 1:
                self.decode(window[-1])
            else:
                self.prefill(window)
        row: NDArray[np.float32] = self.model["logits"][0, 0]
        return row

    def decode(self, token: int) -> None:
        """Compute the next token of the window."""
        self.model["token"][...], self.model["position"][...] = token, self.done
        self.model.run("decode")
        self.done += 1

    def prefill(self, window: Sequence[int]) -> None:
        """Compute as many tokens as one call takes.

        Positions stay below T: the last call may begin with tokens that are done, which gives the same once more.
        What it computes after the end of the window is overwritten before any token sees it.
        """
        ids, last = self.model["tokens"], self.model.artefact.manifest.dims["T"]
        size = ids.shape[1]
        first = min(self.done, last - size)
        piece = window[first : first + size]
        ids[0, : len(piece)] = piece
        ids[0, len(piece) :] = 0
        self.model["positions"][...] = np.arange(first, first + size)
        self.model["last"][...] = len(piece) - 1
        self.model.run("prefill")
        self.done = first + len(piece)


def generate(model: Model, prompt: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
    """`count` tokens after `prompt`, as they come.

    Raises InputError (at once, not at the first token) for an empty prompt, an id outside 0..V-1, or count < 1.
    """
    vocab = model.artefact.manifest.dims["V"]
    source = Cached(model) if model.artefact.has_program("decode") else Recomputed(model)
    if not prompt:
        raise InputError.of("the prompt is empty", None, "give at least one token to start from")
    for token in prompt:
        if not 0 <= token < vocab:
            hint = "was the text made tokens by this model's tokenizer?"
            raise InputError.of(f"prompt token {token} is not in 0..{vocab - 1} of this model", None, hint)
    if count < 1:
        raise InputError.of(f"cannot generate {count} tokens: need at least 1")
    return _generate(model, source, list(prompt), count, sampling)


def _generate(
    model: Model, source: Cached | Recomputed, tokens: list[int], count: int, sampling: Sampling
) -> Iterator[int]:
    rng = XorShift(sampling.seed)
    vocab, longest = model.artefact.manifest.dims["V"], model.artefact.manifest.dims["T"]
    start = max(0, len(tokens) - longest)
    for _ in range(count):
        if len(tokens) - start > longest:
            start = len(tokens) - max(1, longest // 2)
        token = choose(probabilities(source.logits(tokens, start)[:vocab], sampling), rng)
        tokens.append(token)
        yield token
