"""Calls of tools and definitions of tools, from the shapes that files hold to the one that chat templates take.

A call becomes {id?, type: function, function: {name, arguments}}, its arguments an object; a definition
{type: function, function: {name, …}}. Both are kept as JSON text, in the order of keys that the row has, because that
is the order a model prints. JSON text is read wherever an object may stand. Null values of objects are dropped, because
tables give every object the keys of all others. A text that only describes its calls in words or tags of its own
(Hermes, ToolACE) stays text: the row's system prompt explains those tags, and another form would contradict it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from dselect_core.corpus.sample import BadRow, is_missing, json_type

TOOLS_KEYS = ("tools", "functions")
CALLS_KEYS = ("tool_calls", "function_call", "function_calls")

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def is_empty(value: Any) -> bool:
    """Whether a value says that there is nothing: null, NaN, empty, or made of such values only."""
    if is_missing(value) or not value or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")):
        return True
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    return isinstance(value, list | tuple) and all(map(is_empty, value))


def read_tools(holder: Mapping[str, Any], where: str = "") -> str | None:
    """The tool definitions of a row (or of a turn, which `where` names) as JSON text, None without any.

    Raises BadRow where they are not definitions, and where two keys differ.
    """
    found = {key: holder[key] for key in TOOLS_KEYS if key in holder and not is_empty(holder[key])}
    texts = {key: _definitions_text(value, f"{where}`{key}`") for key, value in found.items()}
    if len({*texts.values()}) > 1:
        raise BadRow(f"{where}`tools` and `functions` differ")
    return next(iter(texts.values()), None)


def read_calls(turn: Mapping[str, Any], where: str) -> str | None:
    """The calls of a turn as JSON text, None without any. Raises BadRow where they are not calls."""
    found = [key for key in CALLS_KEYS if not is_empty(turn.get(key))]
    texts = {calls_text(turn[key], f"{where}: `{key}`") for key in found}
    if len(texts) > 1:
        raise BadRow(f"{where}: {' and '.join(found)} differ")
    return next(iter(texts), None)


def calls_text(value: Any, where: str) -> str:
    """One call or a list of calls as JSON text. Raises BadRow where they are not calls."""
    value = _parsed(value, where)
    calls = value if isinstance(value, list) else [value]
    return _json_text([_call(_parsed(call, where), where) for call in calls if not is_empty(call)], where)


def _call(call: Any, where: str) -> dict[str, Any]:
    function = _parsed(call.get("function"), where) if _holds_function(call) else call
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise BadRow(f"{where} is not a call of a tool: {{name, arguments}}")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if is_missing(arguments) or arguments == "" else _parsed(arguments, f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise BadRow(f"{where}: the arguments are {json_type(arguments)}, not an object")
    id = {"id": call["id"]} if isinstance(call.get("id"), str) and call["id"] else {}
    return {**id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _definitions_text(value: Any, where: str) -> str:
    value = _parsed(value, where)
    definitions = []
    for item in value if isinstance(value, list) else [value]:
        if is_empty(item):
            continue
        definition = _parsed(item, where)
        function = _parsed(definition.get("function"), where) if _holds_function(definition) else definition
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"{where} is not a list of tool definitions, each with a name")
        outer = definition if _holds_function(definition) else {}
        definitions.append({"type": "function", **outer, "function": function})
    return _json_text(definitions, where)


def _holds_function(value: Any) -> bool:
    return isinstance(value, dict) and not is_missing(value.get("function"))


def _parsed(value: Any, where: str) -> Any:
    """The value of JSON text; of another value, itself without null keys."""
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        return json.loads(value)
    except ValueError:
        raise BadRow(f"{where} is text that is not JSON") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if not is_missing(item)}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _json_text(value: Any, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{where} holds a lone surrogate, which is not valid Unicode") from None
    except (ValueError, TypeError):
        raise BadRow(f"{where} holds a value that JSON has not") from None
    if _ESCAPED_NUL.search(text):
        raise BadRow(f"{where} holds a NUL character")
    return text
