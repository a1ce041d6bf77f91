"""Every op, one file a family.  The registry as this package exports it is full."""

from gptc.ir.op import REGISTRY
from gptc.ir.ops import (
    attention,
    cache,
    collective,
    elementwise,
    embedding,
    foreach,
    leaf,
    loss,
    matmul,
    norm,
    optimizer,
    quantise,
    random,
    reduce,
    region,
    shape,
    softmax,
)

__all__ = [
    "REGISTRY",
    "attention",
    "cache",
    "collective",
    "elementwise",
    "embedding",
    "foreach",
    "leaf",
    "loss",
    "matmul",
    "norm",
    "optimizer",
    "quantise",
    "random",
    "reduce",
    "region",
    "shape",
    "softmax",
]
