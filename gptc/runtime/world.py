"""The ranks of a job, as the training loop sees them.  A job of one rank is a `World` too, and costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from numpy.typing import NDArray

from gptc.errors import InputError
from gptc.runtime.device import Gpu
from gptc.runtime.model import Model

Result = TypeVar("Result")


class World:
    """A job of one rank; `gptc.runtime.dist` has the one of several."""

    rank = 0
    size = 1

    def attach(self, model: Model) -> None:
        """Average the gradients of `model` over the ranks from now on, and give all of them rank 0's weights and, where
        they do not divide it among them, state.

        Raises InputError where the model's state is divided among another number of ranks.
        """
        shards = model.artefact.manifest.shards
        if shards not in (1, self.size):
            message = f"{model.artefact.folder.name} divides its state among {shards} ranks; this job has {self.size}"
            raise InputError.of(message, None, "gptc train --ranks --zero 1 compiles for the ranks that there are")

    def meet(self, gpu: Gpu) -> None:
        """Refuse GPUs that cannot work together; `gpu` is that of this rank."""

    def mean(self, *values: float) -> tuple[float, ...]:
        """The mean of each number over the ranks, the same on all of them."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so.  All of them must ask."""
        return self.mean(float(flag))[0] > 0

    def turn(self) -> None:
        """Let the ranks that wait for this one know that it goes on."""

    def gather(self, text: str) -> tuple[str, ...]:
        """What each rank says, by rank, on all of them."""
        return (text,)

    def broadcast(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Fill the arrays with what they hold on rank 0."""

    def tell(self, text: str) -> str:
        """The text of rank 0."""
        return text

    def each(self, work: Callable[[], Result]) -> list[Result]:
        """What `work` gives on every rank, on all of them.  All must ask, each on one thread beside the main one.

        Raises OSError on all ranks where it does on one.
        """
        return [work()]

    def first(self, work: Callable[[], object]) -> None:
        """Have rank 0 do something, as `each`."""
        self.each(work if self.leads else lambda: None)

    def alone(self) -> World:
        """A job of this rank alone, which gives signs of life all the same."""
        return self

    def goes_on(self) -> None:
        """Tell that what may keep others waiting is being done."""

    def waiting(self) -> AbstractContextManager[None]:
        """In this block the main thread waits, for others or for what `goes_on`."""
        return nullcontext()

    @contextmanager
    def together(self) -> Iterator[None]:
        """The work of the job: no rank leaves it before the others do, unless something is wrong."""
        yield

    @property
    def leads(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0


ALONE = World()
