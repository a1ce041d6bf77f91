"""`gptc schema`: the JSON Schema of model files, for editors."""

from __future__ import annotations

from gptc.cli.flags import Json


def schema(json: Json = False) -> None:
    """Print the JSON Schema of model files."""
    from json import dumps

    from gptc.model import json_schema

    print(dumps(json_schema(), indent=None if json else 2))
