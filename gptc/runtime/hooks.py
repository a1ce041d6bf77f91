"""What a program asks of the other ranks, and how: the hooks of `templates/c/program/ranks.c`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gptc.errors import InputError
from gptc.runtime.artefact import Artefact


class Exchange(Protocol):
    """What ranks do together with float tensors, which are told by their addresses and numbers of elements.
    `gptc.shares` says which part of a tensor is whose share."""

    rank: int
    size: int

    def average(self, tensors: Sequence[int], sizes: Sequence[int]) -> None:
        """Begin to put means over the ranks in place of tensors."""

    def scatter(self, tensors: Sequence[int], shares: Sequence[int], sizes: Sequence[int]) -> None:
        """Begin to make this rank's shares, filled up with zeros, of the means of tensors."""

    def wait(self, first: int) -> None:
        """Let what follows find all that was to be put at this first address and the others."""

    def gather(self, shares: Sequence[int], tensors: Sequence[int], sizes: Sequence[int]) -> None:
        """Put tensors together from the shares of all ranks."""

    def sum(self, address: int) -> None:
        """Put the sum over the ranks, the same bits on all of them, in place of a double."""


FLOAT = 4  # bytes
POINTERS, SIZES = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64)
AVERAGE = ctypes.CFUNCTYPE(None, POINTERS, SIZES, ctypes.c_int64)
WAIT = ctypes.CFUNCTYPE(None, POINTERS, ctypes.c_int64)
SHARES = ctypes.CFUNCTYPE(None, POINTERS, POINTERS, SIZES, ctypes.c_int64)
SUM = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Guard:
    """Calls what C calls back.  An exception cannot cross the C frames: it is kept for `release`, and hooks rest until
    then."""

    def __init__(self) -> None:
        self._raised: BaseException | None = None

    def __call__(self, hook: Callable[[], Any]) -> Any:
        if self._raised is None:
            try:
                return hook()
            except BaseException as error:
                self._raised = error
        return None

    def release(self) -> None:
        """Raise what a hook has raised."""
        if raised := self._raised:
            self._raised = None
            raise raised


def set_hooks(library: ctypes.CDLL, artefact: Artefact, exchange: Exchange, guard: Guard) -> Sequence[object]:
    """Have a library's programs call `exchange`.  What is returned must live for as long as they may.

    Raises InputError where the library has no hooks.
    """
    hooks: dict[str, Any] = {
        "gptc_all_reduce_begin": AVERAGE(lambda x, sizes, n: guard(lambda: exchange.average(x[:n], sizes[:n]))),
        "gptc_all_reduce_end": WAIT(lambda x, n: guard(lambda: exchange.wait(x[0]))),
        "gptc_reduce_scatter_begin": SHARES(
            lambda x, y, sizes, n: guard(lambda: exchange.scatter(x[:n], y[:n], sizes[:n]))
        ),
        "gptc_reduce_scatter_end": WAIT(lambda y, n: guard(lambda: exchange.wait(y[0]))),
        "gptc_all_gather": SHARES(lambda x, y, sizes, n: guard(lambda: exchange.gather(x[:n], y[:n], sizes[:n]))),
        "gptc_sum_over_ranks": SUM(lambda x: guard(lambda: exchange.sum(x))),
    }
    try:
        for name, value in (("gptc_rank", exchange.rank), ("gptc_ranks", exchange.size)):
            ctypes.c_int64.in_dll(library, name).value = value
        for name, hook in hooks.items():
            ctypes.c_void_p.in_dll(library, name).value = ctypes.cast(hook, ctypes.c_void_p).value
    except ValueError:
        message = f"{artefact.folder.name} was compiled for one rank"
        raise InputError.of(message, None, "compile it with --ranks") from None
    return tuple(hooks.values())


def joined(tensors: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Address and elements of float tensors, those that lie one behind another as one: each takes its own time."""
    found: list[tuple[int, int]] = []
    for address, size in sorted(zip(tensors, sizes, strict=True)):
        if found and found[-1][0] + FLOAT * found[-1][1] == address:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((address, size))
    return found
