"""The JSON Schema of agents.yaml, for editors; generated from the models.

It says less than `check_fleet`: nothing of what needs two parts of the file.
`python -m tierpool.config.json_schema > docs/agents.schema.json` writes it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tierpool.config.parts import NAME, TRANSITION
from tierpool.fleet import Fleet

__all__ = ["json_schema", "schema_text"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of agents.yaml."""
    schema = _tidy(Fleet.model_json_schema(mode="validation"))
    definitions = schema["$defs"]
    definitions["Tier"]["properties"]["timeout"]["default"] = "5m"
    # The models read the short form before their fields are looked at.
    policy = definitions["TierPolicy"]
    definitions["TierPolicy"] = {
        "description": "`auto`, a tier's name, or a range of tiers.",
        "anyOf": [{"type": "string", "pattern": f"^{NAME}$"}, policy],
    }
    transitions = definitions["Flow"]["properties"]["transitions"]
    transitions["propertyNames"] = {"pattern": f"^{TRANSITION.pattern}$"}
    return {
        "$schema": _DIALECT,
        **schema,
        "title": "agents.yaml",
        "description": "A tierpool fleet: tiers of models, roles, and flows of work "
        "items between them.",
    }


def _tidy(schema: Any) -> Any:
    """Refuse names that fit no pattern; drop what pydantic makes up or empties."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made_up = {"title"} if isinstance(schema.get("title"), str) else set()
    if "patternProperties" in schema:
        schema = {**schema, "additionalProperties": False}
        made_up.add("propertyNames")
    empty = {"default"} if schema.get("default", 0) in (None, {}, [], "") else set()
    return {k: _tidy(v) for k, v in schema.items() if k not in made_up | empty}


def schema_text() -> str:
    """Return the schema as it stands in docs/agents.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
