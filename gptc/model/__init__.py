"""The model language: YAML with positions -> checked description -> forward graph."""

from gptc.model.description import Description
from gptc.model.load import load_description
from gptc.model.lower import build_graph
from gptc.model.schema import json_schema

__all__ = ["Description", "build_graph", "json_schema", "load_description"]
