from __future__ import annotations

from typing import Any

from orchestrator import schema
from orchestrator.recipe import Recipe, Restarts, Role
from orchestrator.section import held_models


def test_every_key_is_described() -> None:
    built = schema.build(Recipe)
    entries: dict[str, Any] = dict(built["properties"])
    for definition in built["$defs"].values():
        entries |= definition["properties"]

    assert [key for key, entry in entries.items() if not entry.get("description")] == []


def test_settings_are_called_with() -> None:
    properties = schema.build(Recipe)["$defs"]["Role"]["properties"]

    assert "with" in properties
    assert "settings" not in properties


def test_a_single_role_may_be_written_without_brackets() -> None:
    needs = schema.build(Recipe)["$defs"]["Role"]["properties"]["needs"]

    assert [branch["type"] for branch in needs["anyOf"]] == ["string", "array"]


def test_all_sections_of_a_recipe_are_found() -> None:
    assert {Recipe, Role, Restarts} < set(held_models(Recipe))
