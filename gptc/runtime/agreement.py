"""Whether all ranks have the same weights, bit by bit.

A rank adds up the bytes of each tensor as 64-bit numbers, modulo 2^64: one flipped bit always changes that sum, any
other difference does but once in 2^64 cases.  Only the sums travel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from gptc.errors import NumericsError
from gptc.runtime.model import Model
from gptc.runtime.world import World


def require_agreement(model: Model, world: World, step: int) -> None:
    """NumericsError that names ranks and the first tensor in which they differ.  All ranks must ask."""
    if world.size == 1:
        return
    tensors = (*model.artefact.manifest.params, *model.artefact.manifest.copies)
    sums = [tuple(json.loads(each)) for each in world.gather(json.dumps(model.checksums(tensors)))]
    if len(set(sums)) == 1:
        return
    first = next(t.name for t, column in zip(tensors, zip(*sums, strict=True), strict=True) if len(set(column)) > 1)
    hint = "go on from a checkpoint with --resume auto; where it happens again, look for the machine that errs"
    message = f"step {step}: {odd_ones(sums)}; the first tensor that differs is {first}"
    raise NumericsError.of(message, None, hint)


def odd_ones(sums: Sequence[object]) -> str:
    """Which ranks stand against most, or that there is no most."""
    most, count = Counter(sums).most_common(1)[0]
    if 2 * count <= len(sums):
        return "the ranks have different weights"
    ranks = [str(rank) for rank, each in enumerate(sums) if each != most]
    return f"the weights of rank {', '.join(ranks)} are not those of the other {count} ranks"
