"""A checked model: what `load_description` makes of a file, before batch and sequence length are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from gptc.errors import Span
from gptc.model import schema, tree
from gptc.model.dims import Dims
from gptc.model.params import Param, ParamGroup
from gptc.model.source import Report, Source
from gptc.model.statements import Block

FLAG = "--set"
"""The name that overrides have in messages and as an origin."""


@dataclass(frozen=True)
class Description:
    """A checked description.  Batch and sequence length are bound later, by `build_graph`."""

    name: str
    tokenizer: str
    dims: Dims
    """Sizes as the file has them: `T` is the longest sequence."""
    param_tree: ParamGroup
    graph: Block
    train: schema.Train
    places: Mapping[str, Span | None]
    """Setting (`train.lr`, `dims.T`) -> where its value stands; None for a default."""
    dim_entries: Mapping[str, tree.Scalar]
    """Dims as written."""
    sources: tuple[Source, ...]
    """The file, and the overrides as a second one."""
    declared: frozenset[str]
    """Every key of the file, mistaken ones included."""
    written: Mapping[str, str]
    """Every value of the file by its dotted name, overrides included."""

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """Parameters in the order of the file, which is the order in which they are initialised."""
        return tuple(self.param_tree)

    @property
    def origins(self) -> dict[str, str]:
        """Where the value of each setting comes from: `file:line`, `--set` or `default`."""
        return {name: _origin(span) for name, span in self.places.items()}

    @contextmanager
    def quoting(self) -> Iterator[None]:
        """Let an InputError of the block show the line that it points into."""
        report = Report(*self.sources)
        with report.collect():
            yield
        report.check()

    @property
    def settings(self) -> dict[str, tree.Plain]:
        """Everything that makes this model by its dotted name: dims and `train` resolved, the rest as written."""
        dims = {f"dims.{name}": value for name, value in self.dims.items()}
        return {**self.written, **dims, **{f"train.{name}": value for name, value in self.train.model_dump().items()}}

    @property
    def parameter_count(self) -> int:
        """Elements of all parameters, padding included."""
        return sum(p.count for p in self.params)


def _origin(span: Span | None) -> str:
    if span is None:
        return "default"
    return FLAG if span.file == FLAG else f"{span.file}:{span.line}"
