"""Every op, one file a family.  Importing this package fills the registry."""

from gptc.ir.ops import elementwise, leaf, matmul, reduce, region, shape

__all__ = ["elementwise", "leaf", "matmul", "reduce", "region", "shape"]
