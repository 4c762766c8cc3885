"""The configuration reference, docs/configuration.md, written from the JSON schema of dselect.yaml.

`python -m dselect_core.settings.reference FILE` writes it; a test holds the page to the schema.
"""

import sys
from pathlib import Path
from typing import Any

from dselect_core.settings.settings import json_schema

_HEAD = """\
# Configuration

Every key of `dselect.yaml`, written from its JSON schema, `dselect_core/settings/dselect.schema.json`, which
an editor can check the file against. Unknown keys are errors that name the nearest key. Paths are relative to the file.
"""


def reference() -> str:
    """The page as markdown: the top level, then a section for each object in the order it is met."""
    schema = json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    sections = [_HEAD, "## Top level\n", _table(schema, schema)]
    waiting, written = _references(schema), set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in written:
            continue
        written.add(name)
        sections += [f"## {_title(name, schema)}\n", f"{definitions[name].get('description', '')}\n"]
        sections.append(_table(definitions[name], schema))
        waiting += _references(definitions[name])
    return "\n".join(section.rstrip("\n") + "\n" for section in sections)


def _title(name: str, schema: dict[str, Any]) -> str:
    """The key that leads to an object, or its class name without its ending."""
    key = next((key for key, value in schema["properties"].items() if name in _names(value)), None)
    return f"`{key}`" if key else name.removesuffix("Spec")


def _references(schema: dict[str, Any]) -> list[str]:
    return [name for value in schema["properties"].values() for name in _names(value)]


def _names(value: Any) -> list[str]:
    """Names of the definitions that a schema refers to, at any depth."""
    if isinstance(value, dict):
        own = [value["$ref"].rsplit("/", 1)[-1]] if isinstance(value.get("$ref"), str) else []
        return own + [name for inner in value.values() for name in _names(inner)]
    return [name for inner in value for name in _names(inner)] if isinstance(value, list) else []


def _table(definition: dict[str, Any], schema: dict[str, Any]) -> str:
    """The keys of one definition of a schema; a type that has a section of its own is a link to it."""
    required = set(definition.get("required", ()))
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in definition["properties"].items():
        default = "required" if key in required else _default(value)
        meaning = str(value.get("description", "")).replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{key}` | {_type(value, schema)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(value: dict[str, Any]) -> str:
    if isinstance(value.get("default"), dict) and value["default"]:
        return "see its section"
    return "" if value.get("default") is None else f"`{value['default']}`"


def _type(value: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in value:
        name = str(value["$ref"]).rsplit("/", 1)[-1]
        return f"[{name.removesuffix('Spec')}](#{_title(name, schema).strip('`').lower()})"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each, schema) for each in value["anyOf"] if each.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_type(value['items'], schema)}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"name → {_type(value['additionalProperties'], schema)}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[bound]:g}" for bound, sign in bounds.items() if bound in value]
    return " ".join([str(value.get("type", "any")), ", ".join(limits)]).strip()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), "utf-8")
