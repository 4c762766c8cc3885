"""What can be wrong with a settings file before any key of it is looked at, in words and without its text."""

from typing import Any

import yaml


def with_null(value: Any, place: str = "") -> str | None:
    """The place of a text with a null character, which no path and no name can hold; None if there is none."""
    if isinstance(value, str):
        return place if "\0" in value else None
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        below = f"{place}.{key}".lstrip(".")
        if "\0" in str(key):
            return below
        if (found := with_null(child, below)) is not None:
            return found
    return None


def where_in_yaml(error: yaml.YAMLError) -> str:
    """What is wrong, with its line; not the text of the line, which may hold a password."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    position = getattr(error, "position", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
    return f"{what}{place}{'' if position is None else f' at character {position + 1}'}"
