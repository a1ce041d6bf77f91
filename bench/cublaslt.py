"""cuBLASLt's products with an epilogue, which PyTorch calls only in part: bias, a residual, gelu with its operand.

The numbers are those of cublasLt.h of CUDA 12 and 13.  Needs torch with CUDA, which brings the library along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch

LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12")
COMPUTE_F32, F32, BF16 = 68, 0, 14
TRANSPOSED = 1
TRANS_A, EPILOGUE, BIAS_POINTER, AUX_POINTER, AUX_LD = 3, 7, 8, 11, 12
DEFAULT, BIAS, GELU_AUX_BIAS = 1, 4, 164
MAX_WORKSPACE = 1
WORKSPACE = 64 << 20
CANDIDATES = 8
"""Algorithms that the library's own heuristic proposes, best first."""


class Heuristic(ctypes.Structure):
    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@cache
def _library() -> ctypes.CDLL:
    torch.cuda.init()
    torch.cuda.current_blas_handle()  # loads it
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"none of {', '.join(LIBRARIES)} was found")


def _call(name: str, *arguments: object) -> None:
    status = getattr(_library(), name)(*arguments)
    if status:
        raise RuntimeError(f"{name} answers {status}")


def _create(name: str, *arguments: object) -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    _call(f"cublasLt{name}Create", ctypes.byref(made), *arguments)
    return made


def forwards(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    before_gelu: torch.Tensor | None = None,
) -> list[Callable[[], None]]:
    """y[M, N] = x[M, K] w[N, K]^T + bias + residual, or gelu of it with its operand in `before_gelu`, in bf16.

    One call for each algorithm that the library proposes; all tensors must outlive them.
    """
    (m, k), n = x.shape, w.shape[0]
    handle = _create("")
    # The library counts by columns: y^T = w x^T, of which w lies transposed.
    layouts = [_create("MatrixLayout", BF16, *map(ctypes.c_uint64, size[:2]), ctypes.c_int64(size[0]))
               for size in ((k, n), (k, m), (n, m))]  # fmt: skip
    product = _create("MatmulDesc", COMPUTE_F32, F32)

    def attribute(number: int, value: ctypes.c_int32 | ctypes.c_int64 | ctypes.c_void_p) -> None:
        _call("cublasLtMatmulDescSetAttribute", product, number, ctypes.byref(value), ctypes.sizeof(value))

    attribute(TRANS_A, ctypes.c_int32(TRANSPOSED))
    if bias is not None:
        attribute(EPILOGUE, ctypes.c_int32(BIAS if before_gelu is None else GELU_AUX_BIAS))
        attribute(BIAS_POINTER, ctypes.c_void_p(bias.data_ptr()))
    if before_gelu is not None:
        attribute(AUX_POINTER, ctypes.c_void_p(before_gelu.data_ptr()))
        attribute(AUX_LD, ctypes.c_int64(n))
    preference = _create("MatmulPreference")
    limit = ctypes.c_size_t(WORKSPACE)
    _call("cublasLtMatmulPreferenceSetAttribute", preference, MAX_WORKSPACE, ctypes.byref(limit), ctypes.sizeof(limit))
    found, count = (Heuristic * CANDIDATES)(), ctypes.c_int()
    types = (layouts[0], layouts[1], layouts[2], layouts[2])
    _call("cublasLtMatmulAlgoGetHeuristic", handle, product, *types, preference, CANDIDATES, found, ctypes.byref(count))
    one, beta = ctypes.c_float(1), ctypes.c_float(0 if residual is None else 1)
    workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")
    w_, x_, c_, y_ = (ctypes.c_void_p(t.data_ptr()) for t in (w, x, y if residual is None else residual, y))

    def forward(choice: Heuristic) -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        _call("cublasLtMatmul", handle, product, ctypes.byref(one), w_, layouts[0], x_, layouts[1], ctypes.byref(beta),
              c_, layouts[2], y_, layouts[2], ctypes.byref(choice), ctypes.c_void_p(workspace.data_ptr()),
              ctypes.c_size_t(WORKSPACE), stream)  # fmt: skip

    return [lambda choice=found[i]: forward(choice) for i in range(count.value)]  # type: ignore[misc]
