"""Measure generation: how long a prompt takes, and each token after it.

Reads: a loaded artefact for inference with caches.  Does not: choose tokens, or print.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from gptc.errors import InputError, NumericsError
from gptc.runtime.model import Model
from gptc.runtime.profile import SEED, WARM_UP, Progress, Times, calls_of, check_repeats
from gptc.runtime.store import store

STD = 0.02
"""Of the weights: any numbers take the same time, as long as they stay finite."""


class Decoding:
    """A model with random weights, before a random prompt."""

    def __init__(self, model: Model, prompt: int, repeats: int) -> None:
        """InputError where `prompt` tokens and the repeats after them do not fit, or the model has no caches."""
        check_repeats(repeats)
        manifest = model.artefact.manifest
        self.model, self.prompt, self.repeats = model, prompt, repeats
        self.batch, self.seq = manifest.dims["B"], manifest.dims["T"]
        if not model.artefact.has_program("decode"):
            message = f"{manifest.model} has no program that computes one token"
            raise InputError.of(message, None, "`gptc show remarks --mode infer` says why")
        if prompt + WARM_UP + repeats > self.seq:
            needed = f"{prompt} + {WARM_UP} + {repeats} tokens need as many positions"
            raise InputError.of(f"{needed}; there are {self.seq}", None, "set --seq, --prompt or --repeats")
        rng = np.random.default_rng(SEED)
        for param in manifest.params:
            store(model, param, STD * rng.standard_normal(param.valid, np.float32))
        self.ids = rng.integers(0, manifest.dims["V"], (self.batch, self.seq), dtype=np.int32)

    def bytes_of_token(self) -> int:
        """What the token in the middle of those that are timed must fetch: of caches only the rows before it."""
        middle = self.prompt + WARM_UP + self.repeats // 2
        caches = sum(t.nbytes for t in self.model.artefact.manifest.state if len(t.shape) == 4)
        whole = sum(call.bytes for call in calls_of(self.model.artefact)["decode"])
        return whole - caches * (self.seq - middle) // self.seq

    def read_prompt(self) -> None:
        """Compute the prompt: in as many calls as it takes."""
        size = self.model["tokens"].shape[1]
        for start in range(0, self.prompt, size):
            first = min(start, self.seq - size)
            self.model["tokens"][...] = self.ids[:, first : first + size]
            self.model["positions"][...] = np.arange(first, first + size)
            self.model["last"][...] = np.arange(self.batch)[:, None] * size + size - 1
            self.model.run("prefill")

    def decode(self, position: int) -> None:
        self.model["token"][...] = self.ids[:, position : position + 1]
        self.model["position"][...] = position
        self.model.run("decode")

    def time(self, progress: Progress = lambda done, total: None) -> tuple[Times, Times]:
        """Times of the whole prompt, and of each token after it."""
        prompts = [_ms(self.read_prompt) for _ in range(WARM_UP + self.repeats // 8 + 3)][WARM_UP:]
        tokens = []
        for done in range(WARM_UP + self.repeats):
            tokens.append(_ms(partial(self.decode, self.prompt + done)))
            progress(done + 1, WARM_UP + self.repeats)
        if not math.isfinite(largest := float(np.abs(np.asarray(self.model["logits"])).max())):
            raise NumericsError.of(f"a logit is {largest}")
        return Times(tuple(prompts)), Times(tuple(tokens[WARM_UP:]))


def _ms(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)
