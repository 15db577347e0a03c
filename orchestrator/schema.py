"""The JSON Schema of a section, with the strings under its fields as descriptions.

Pydantic can collect those strings itself, but then parses the source of every section at every
start of every program; only an editor wants them, so they are read here.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from pydantic import BaseModel

from orchestrator.section import held_models


def build(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of ``model``, every section and field below it described."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    definitions = {model.__name__: schema, **schema.get("$defs", {})}
    for section in held_models(model):
        texts = descriptions(section)
        for key, entry in definitions[section.__name__].get("properties", {}).items():
            if key in texts:
                entry["description"] = texts[key]
    return schema


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return for each key of ``model`` the string under its field; inherited fields are left out."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            alias = model.model_fields[field.target.id].alias
            found[alias or field.target.id] = inspect.cleandoc(below.value.value)
    return found
