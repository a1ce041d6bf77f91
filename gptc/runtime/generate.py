"""Text from a trained model: one token at a time, each from the logits after all that came before."""

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


def generate(model: Model, prompt: Sequence[int], count: int, sampling: Sampling) -> Iterator[int]:
    """`count` tokens after `prompt`, as they come.  Beyond T tokens the model sees the last T.

    Raises InputError (at once, not at the first token) for an empty prompt, an id outside 0..V-1, or count < 1.
    """
    vocab = model.artefact.manifest.dims["V"]
    model.artefact.program("logits")
    if not prompt:
        raise InputError.of("the prompt is empty", None, "give at least one token to start from")
    for token in prompt:
        if not 0 <= token < vocab:
            raise InputError.of(f"prompt token {token} is not in 0..{vocab - 1} of this model")
    if count < 1:
        raise InputError.of(f"cannot generate {count} tokens: need at least 1")
    return _generate(model, list(prompt), count, sampling)


def _generate(model: Model, tokens: list[int], count: int, sampling: Sampling) -> Iterator[int]:
    rng = XorShift(sampling.seed)
    vocab = model.artefact.manifest.dims["V"]
    seq = model.artefact.manifest.dims["T"]
    for _ in range(count):
        window = tokens[-seq:]
        model["tokens"][0, : len(window)] = window
        model["tokens"][0, len(window) :] = 0  # later positions: causal attention never looks there
        model.run("logits")
        token = choose(probabilities(model["logits"][0, len(window) - 1, :vocab], sampling), rng)
        tokens.append(token)
        yield token
