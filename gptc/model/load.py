"""From a file to a checked model: `load_description` reports every mistake of the file at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptc.errors import Span, did_you_mean
from gptc.model import lower, schema, tree
from gptc.model.description import FLAG, Description
from gptc.model.dims import evaluate_dims
from gptc.model.names import BOUND, file_name_problem, name_problem
from gptc.model.params import resolve_params
from gptc.model.source import Report, Source, quoted, read_source
from gptc.model.statements import parse_graph


def load_description(path: Path | str, overrides: Sequence[str] = ()) -> Description:
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
    named = _keys(root.values.get("dims"))
    file = schema.validate(root, report)
    if problem := file_name_problem(file.model):
        report.error(problem, root.scalar(("model",)).span)
    entries = _dim_entries(root, file, report)
    if "V" not in named:
        report.error("'dims' says nothing of 'V', the tokens in the vocabulary", root.key(("dims",)).span)
    dims = evaluate_dims(entries, report, lost=named - entries.keys())
    model = Description(
        name=file.model,
        tokenizer=file.tokenizer,
        dims=dims,
        param_tree=resolve_params(root, file.params, dims, report),
        graph=parse_graph(root, file.graph, dims, report),
        train=file.train,
        places=_places(root),
        dim_entries=entries,
        sources=(source, flags),
        declared=declared,
        written=dict(root.leaves()),
    )
    lower.check(model, report)
    report.check()
    return model


def _keys(node: tree.Node | None) -> frozenset[str]:
    return frozenset(node.values) if isinstance(node, tree.Mapping) else frozenset()


def _dim_entries(root: tree.Mapping, file: schema.ModelFile, report: Report) -> dict[str, tree.Scalar]:
    for name in file.dims:
        key = root.key(("dims", name))
        if name in BOUND:
            report.error(f"{quoted(name)} is {BOUND[name]}", key.span, "remove it from the model")
        elif problem := name_problem(name):
            report.error(problem, key.span)
    return {name: root.scalar(("dims", name)) for name in file.dims}


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


def _places(root: tree.Mapping) -> dict[str, Span | None]:
    """Where each setting of `train` and `dims` was made."""
    places: dict[str, Span | None] = {f"train.{name}": None for name in schema.Train.model_fields}
    for section in ("dims", "train"):
        entries = root.values.get(section)
        if isinstance(entries, tree.Mapping):
            places |= {f"{section}.{key}": node.span for key, node in entries.values.items()}
    return places
