"""How many micro-steps make a step: as many as are asked for, or as a total batch in tokens takes."""

from __future__ import annotations

from dataclasses import dataclass

from gptc.errors import InputError, Span


@dataclass(frozen=True)
class Asked:
    """What the command line or the model asks for; None where it says nothing.

    `names` are those of the two there, `place` is where a model has the total batch.
    """

    micro_steps: int | None
    total_batch: int | None
    names: tuple[str, str]
    place: Span | None = None

    def __bool__(self) -> bool:
        return (self.micro_steps, self.total_batch) != (None, None)


def micro_steps(asked: Asked, batch: int, seq: int, ranks: int) -> int:
    """Micro-steps of B * T tokens on each rank that make a step.

    InputError where no number of them makes the total batch, or not the one that is asked for too.
    """
    if asked.total_batch is None:
        return asked.micro_steps or 1
    total, each = asked.total_batch, batch * seq * ranks
    product = f"{f'{ranks} ranks x ' if ranks > 1 else ''}{batch} sequences x {seq} tokens = {each:,}"
    found, rest = divmod(total, each)
    name, other = reversed(asked.names)
    if rest:
        near = [f"{n * each:,} ({n} micro-step{'s' if n > 1 else ''})" for n in (found, found + 1) if n]
        message = f"{name}: {total:,} tokens are no multiple of the {product} of a micro-step"
        raise InputError.of(message, asked.place, f"the nearest {'are' if found else 'is'} {' and '.join(near)}")
    if asked.micro_steps not in (None, found):
        message = f"{other} {asked.micro_steps} and {name} {total} disagree: the latter takes {found} micro-steps"
        raise InputError.of(f"{message} of {product}", asked.place, f"leave {other} out")
    return found
