"""From a file to a checked model: `load_model` reports every mistake of the file at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gptc.errors import did_you_mean
from gptc.model import lower, schema, tree
from gptc.model.dims import Dims, evaluate_dims
from gptc.model.names import BOUND, file_name_problem, name_problem
from gptc.model.params import Param, ParamGroup, resolve_params
from gptc.model.source import Report, Source, quoted, read_source
from gptc.model.statements import Block, parse_graph

FLAG = "--set"
"""The name that overrides have in messages and as an origin."""


@dataclass(frozen=True)
class Model:
    """A checked description.  Batch and sequence length are bound later, by `build_graph`."""

    name: str
    tokenizer: str
    dims: Dims
    """Sizes as the file has them: `T` is the longest sequence."""
    param_tree: ParamGroup
    graph: Block
    train: schema.Train
    origins: Mapping[str, str]
    """Setting (`train.lr`, `dims.T`) -> where its value comes from: `file:line`, `--set` or `default`."""
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
    def settings(self) -> dict[str, tree.Plain]:
        """Everything that makes this model by its dotted name: dims and `train` resolved, the rest as written."""
        dims = {f"dims.{name}": value for name, value in self.dims.items()}
        return {**self.written, **dims, **{f"train.{name}": value for name, value in self.train.model_dump().items()}}

    @property
    def parameter_count(self) -> int:
        """Elements of all parameters, padding included."""
        return sum(p.count for p in self.params)


def load_model(path: Path | str, overrides: Sequence[str] = ()) -> Model:
    """Read and check a model file; InputError with all of its mistakes.

    `overrides` are `train.KEY=VALUE` or `dims.NAME=VALUE`, with values as YAML 1.2 reads them.
    """
    source = read_source(Path(path))
    flags = Source(FLAG, "\n".join(overrides))
    report = Report(source, flags)
    root = tree.parse_tree(source, report)
    for index, override in enumerate(overrides):
        _override(root, override, Source(FLAG, "\n" * index + override), report)
    declared = frozenset(root.all_keys())
    description = schema.validate(root, report)
    if problem := file_name_problem(description.model):
        report.error(problem, root.scalar(("model",)).span)
    entries = _dim_entries(root, description, report)
    dims = evaluate_dims(entries, report)
    model = Model(
        name=description.model,
        tokenizer=description.tokenizer,
        dims=dims,
        param_tree=resolve_params(root, description.params, dims, report),
        graph=parse_graph(root, description.graph, dims, report),
        train=description.train,
        origins=_origins(root),
        dim_entries=entries,
        sources=(source, flags),
        declared=declared,
        written=dict(root.leaves()),
    )
    lower.check(model, report)
    report.check()
    return model


def _dim_entries(root: tree.Mapping, description: schema.Description, report: Report) -> dict[str, tree.Scalar]:
    for name in description.dims:
        key = root.key(("dims", name))
        if name in BOUND:
            report.error(f"{quoted(name)} is {BOUND[name]}", key.span, "remove it from the model")
        elif problem := name_problem(name):
            report.error(problem, key.span)
    return {name: root.scalar(("dims", name)) for name in description.dims}


def _override(root: tree.Mapping, text: str, source: Source, report: Report) -> None:
    """Put `section.key=value` into the tree, with a place of its own."""
    start = len(source.text) - len(text)
    path, equals, value = text.partition("=")
    section, dot, key = path.partition(".")
    span = source.span(start, start + max(1, len(path)))
    if "\n" in text or not equals or not dot or section not in ("train", "dims"):
        report.error(f"cannot read {quoted(text)}", span, "write train.KEY=VALUE or dims.NAME=VALUE")
        return
    target = root.values.get(section)
    if target is None and section == "train":
        target = tree.Mapping(source, start, start)
        root.set(tree.Scalar(source, start, start + len(section), section, section), target)
    if not isinstance(target, tree.Mapping):
        return
    if section == "dims" and key not in target.values:
        report.error(f"the model has no dim {quoted(key)}", span, did_you_mean(key[:64], target.values))
        return
    name = tree.Scalar(source, start, start + len(path), key, key)
    target.set(name, tree.Scalar(source, start + len(path) + 1, len(source.text), value, tree.resolve(value)))


def _origins(root: tree.Mapping) -> dict[str, str]:
    """Where each setting of `train` and `dims` was made."""
    origins = {f"train.{name}": "default" for name in schema.Train.model_fields}
    for section in ("dims", "train"):
        entries = root.values.get(section)
        if isinstance(entries, tree.Mapping):
            for key, node in entries.values.items():
                origins[f"{section}.{key}"] = FLAG if node.span.file == FLAG else f"{node.span.file}:{node.span.line}"
    return origins
