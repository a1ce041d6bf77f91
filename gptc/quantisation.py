"""Weights in 8 bits: each row by its largest magnitude.

The one definition, for the op of the IR that means it and for the runtime that stores weights so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
"""Of the whole numbers that are used: -128 has no counterpart above zero."""


def quantise(rows: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """q i8[N,K] and scale f32[N] with scale q nearest to `rows` [N,K]; a row of zeros has scale 0.

    An element is off by at most half a scale: 1/254 of the largest magnitude in its row.
    """
    wide = rows.astype(np.float32, copy=False)
    scale: NDArray[np.float32] = np.abs(wide).max(1) / np.float32(LARGEST)
    steps = wide / np.where(scale > 0, scale, np.float32(1))[:, None]
    return np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8), scale
