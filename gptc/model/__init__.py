"""The model language: YAML with positions -> checked description -> forward graph."""

from gptc.model.description import Model, load_model
from gptc.model.lower import build_graph
from gptc.model.schema import json_schema

__all__ = ["Model", "build_graph", "json_schema", "load_model"]
