"""What whoever emits an artefact and whoever runs it agree on; docs/contracts.md has all of it."""

from __future__ import annotations

from typing import Literal, get_args

import ml_dtypes
import numpy as np

FORMAT = 1
"""Of manifest.json."""
Segment = Literal["params", "state", "io", "arena"]
SEGMENTS: tuple[Segment, ...] = get_args(Segment)
"""In the order of `struct gptc_memory`."""
ALIGNMENT = 64
"""Bytes; every segment, and every tensor in its segment, begins at a multiple: a cache line, the widest vector."""
DTYPES: dict[str, np.dtype[np.generic]] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
}
"""Spelling of an element type, in manifests as in graphs -> how an element lies in memory."""


def dtype_name(dtype: np.dtype[np.generic]) -> str:
    """The spelling of a dtype of `DTYPES`."""
    return next(name for name, known in DTYPES.items() if known == dtype)
