"""Every op, one file a family.  Importing this package fills the registry."""

from gptc.ir.ops import (
    attention,
    elementwise,
    embedding,
    leaf,
    loss,
    matmul,
    norm,
    optimizer,
    reduce,
    region,
    shape,
    softmax,
)

__all__ = [
    "attention",
    "elementwise",
    "embedding",
    "leaf",
    "loss",
    "matmul",
    "norm",
    "optimizer",
    "reduce",
    "region",
    "shape",
    "softmax",
]
