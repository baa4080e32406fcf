"""The JSON schema of `aicockpit doctor --json`, made from the values themselves; docs/doctor.schema.json holds it."""

from __future__ import annotations

from typing import Any

import msgspec

from aicockpit.doctor.everything import VERSION
from aicockpit.doctor.finding import Finding
from aicockpit.hardware import machine


def schema() -> dict[str, Any]:
    """A document of JSON Schema 2020-12."""
    _, parts = msgspec.json.schema_components((Finding, machine.Snapshot), ref_template="#/$defs/{name}")
    snapshot = parts["Snapshot"]
    snapshot["properties"] = {"version": {"const": machine.VERSION}, **snapshot["properties"]}
    for part in parts.values():  # every field is always written, also when it is null
        if part.get("type") == "object":
            part["required"] = list(part["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aicockpit doctor --json",
        "type": "object",
        "properties": {
            "version": {"const": VERSION},
            "verdict": {"enum": ["ok", "warn", "bad"]},
            "findings": {"type": "array", "items": {"$ref": "#/$defs/Finding"}},
            "snapshot": {"$ref": "#/$defs/Snapshot"},
        },
        "required": ["version", "verdict", "findings", "snapshot"],
        "$defs": {name: parts[name] for name in sorted(parts)},
    }
