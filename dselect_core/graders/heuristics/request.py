"""What a short request gives to work on: quoted text, text after a colon, a list. [ours]

Only one reading is accepted: with two quoted strings or two lists there is no operand.
"""

import re

from dselect_core.graders.heuristics.numerals import NUMBER

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|`([^`]+)`|(?<!\w)'([^'\n]+)'(?!\w)|‘([^’]+)’")
_BRACKETED = re.compile(r"[\[({]([^\[\](){}]+)[\])}]")
_LISTED = re.compile(r"[:\n]\s*([^:\n]*,[^:\n]*?)[.?!]?\s*$")
_INLINE_NUMBERS = re.compile(rf"((?:-?{NUMBER}\s*,\s+(?:and\s+)?){{2,}}-?{NUMBER})")
_CODE_WANTED = re.compile(
    r"\b(?:code|program|script|function|method|python|java|javascript|c\+\+|sql|query|regex|algorithm|explain|"
    r"how (?:do|can|would|to))\b",
    re.IGNORECASE,
)


def wants_code(question: str) -> bool:
    """Whether a program or an explanation is asked for, not the result itself."""
    return _CODE_WANTED.search(question) is not None


def quoted(question: str) -> str | None:
    """The one quoted text of the request."""
    found = ["".join(groups) for groups in QUOTED.findall(question)]
    return found[0] if len(found) == 1 else None


def operand(question: str) -> str | None:
    """The one quoted text, or what follows the request's colon up to the end."""
    if QUOTED.search(question):
        return quoted(question)
    tail = re.search(r":\s*([^:\n]+?)\s*$", question)
    return tail[1] if tail else None


def items(question: str) -> list[str]:
    """The one list of the request: in brackets, after a colon or line break, or numbers in a row; else empty."""
    bracketed = [b for b in _BRACKETED.findall(question) if "," in b]
    if len(bracketed) > 1:
        return []
    if bracketed:
        return _split(bracketed[0])
    match = _LISTED.search(question) or _INLINE_NUMBERS.search(question)
    found = _split(match[1]) if match else []
    # An item of many words is a clause of the request, not an item.
    return found if all(len(item.split()) <= 3 for item in found) else []


def _split(text: str) -> list[str]:
    parts = [p.strip().strip("\"'“”‘’`*.").strip() for p in re.split(r",\s*(?:and\s+)?|\s+and\s+|;\s*", text)]
    return [p for p in parts if p]
