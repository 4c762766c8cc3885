"""Checks of mechanical requests on one text: change case, reverse, count, palindrome. [ours]

The text must stand in the request itself, quoted or after a colon. The right result anywhere in the answer
is enough, so an explanation around it costs nothing.
"""

import re
from collections.abc import Callable, Iterable

from dselect_core.graders.heuristics.numerals import mentions_quantity, numbers_in
from dselect_core.graders.heuristics.request import operand, quoted, wants_code
from dselect_core.graders.heuristics.turn import Finding, Turn, clip, says_yes

_WORTH = re.compile(
    r"reverse|backward|upper|lower|capital|how many|how often|count|number of|palindrome|how long", re.IGNORECASE
)
_CASE = re.compile(
    r"\b(?:in|to|into|all)[\s-]+(?:all\s+)?(upper|lower)[\s-]?case|\bin all (capital)s?\b|\b(?:in|to|"
    r"into) (capital) letters|\b(uppercase|lowercase) (?:all|every|the (?:word|string|text|sentence|phrase|following))",
    re.IGNORECASE,
)


def wrong_string(turn: Turn) -> Finding | None:
    """A request on one text whose result is not in the answer."""
    question = turn.question
    if not question or not _WORTH.search(question) or wants_code(question):
        return None
    for check in (_palindrome, _case, _reversed, _counted):
        if (finding := check(question, turn.body)) is not None:
            return finding
    return None


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(" .!?\"'")


def _case(question: str, response: str) -> Finding | None:
    match = _CASE.search(question)
    text = operand(question)
    if match is None or text is None or not any(c.isalpha() for c in text):
        return None
    which = next(g for g in match.groups() if g).lower()
    expected = _bare(text.lower() if which.startswith("lower") else text.upper())
    if expected in " ".join(response.split()):
        return None
    return Finding(0.1, f"{clip(text, 30)!r} is {clip(expected, 40)!r}, not in the answer")


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


_REVERSE = re.compile(r"\brevers(?:e|ed|ing)\b|\bbackwards?\b", re.IGNORECASE)
_NOT_SPELLING = re.compile(
    r"\b(?:same|meaning|sense|roles|pyramid|outline|argument|statement|engineer|list|numbers|items|elements)\b",
    re.IGNORECASE,
)


def _reversed(question: str, response: str) -> Finding | None:
    text = operand(question)
    if text is None or len(text) < 3 or not _REVERSE.search(question) or _NOT_SPELLING.search(question):
        return None
    spelled, words = _letters(response), text.split()
    whole = _letters(text)[::-1]
    by_word = _letters("".join(reversed(words))) if len(words) > 1 else whole
    each_word = "".join(_letters(w[::-1]) for w in words)
    if whole in spelled or by_word in spelled or each_word in spelled:
        return None
    return Finding(0.1, f"the reverse of {clip(text, 30)!r} is not in the answer")


_COUNTS: dict[str, Callable[[str], Iterable[int]]] = {
    "letter": lambda t: (sum(c.isalpha() for c in t), len(t)),
    "character": lambda t: (len(t), len(t.replace(" ", "")), sum(c.isalnum() for c in t)),
    "word": lambda t: (len(t.split()), len(re.findall(r"[\w'’]+", t))),
    "vowel": lambda t: (sum(c in "aeiou" for c in t.lower()), sum(c in "aeiouy" for c in t.lower())),
    "consonant": lambda t: [sum(c.isalpha() and c not in v for c in t.lower()) for v in ("aeiou", "aeiouy")],
}
_COUNT_ASKED = re.compile(
    r"\b(?:how many|count(?: the)?(?: number of)?|(?:what is|find|give|tell me) the number of)\s+"
    r"(letter|character|word|vowel|consonant)s?\b(?P<rest>[^'\"“`‘]*)",
    re.IGNORECASE,
)
# "How many words start with b in …" counts something narrower.
_COUNTS_ALL = re.compile(
    r"[\s,]*(?:\([a-z, ]+\)[\s,:]*|(?:are|is|does|do|there|in|of|the|this|following|word|string|sentence|phrase|text|"
    r"contain|have)\b[\s,:]*)*[a-z]*\W*",
    re.IGNORECASE,
)
_QUOTE, _UNQUOTE = "['\"“`‘]?", "['\"”`’]?"
_OCCURRENCES = re.compile(
    rf"\b(?:how many times|how often|count)\b.{{0,40}}?\b(?:letter|"
    rf"character)\s+{_QUOTE}(?P<c>[a-z]){_UNQUOTE}(?!\w).{{0,40}}?"
    rf"\b(?:in|within)\s+(?:the\s+(?:word|string)\s+{_QUOTE}(?P<word>[a-z]+)|['\"“`‘](?P<text>[^'\"”`’\n]+))",
    re.IGNORECASE,
)


def _counted(question: str, response: str) -> Finding | None:
    expected: set[int] = set()
    if (match := _OCCURRENCES.search(question)) is not None:
        text = match["word"] or match["text"]
        expected = {text.lower().count(match["c"].lower()), text.count(match["c"])}
    elif (match := _COUNT_ASKED.search(question)) is not None and _COUNTS_ALL.fullmatch(match["rest"]):
        word = re.search(r"\bin the word ([a-z]+)\b", question, re.IGNORECASE)
        counted = operand(question) or (word[1] if word else None)
        expected = set(_COUNTS[match[1].lower()](counted)) if counted else set()
    if not expected:
        return None
    if not mentions_quantity(response):
        return Finding(0.2, "asks for a count, none in the answer")
    found = [value for value, _ in numbers_in(response)]
    none = 0 in expected and re.search(r"\b(?:no|none|not)\b", response, re.IGNORECASE)
    if not found or none or any(value in expected for value in found):
        return None
    return Finding(0.1, f"the count asked is {min(expected)}, not in the answer")


def _palindrome(question: str, response: str) -> Finding | None:
    asked = re.search(r"\bpalindrome\b|\bsame\b.{0,20}\bbackwards?\b|\bsame in reverse\b", question, re.IGNORECASE)
    text, said = quoted(question), says_yes(response)
    if (
        asked is None
        or text is None
        or said is None
        or not re.match(r"\W*(?:\w+ ){0,6}?(?:is|does|whether|if)\b", question, re.IGNORECASE)
    ):
        return None
    truth = _letters(text) == _letters(text)[::-1]
    return None if said == truth else Finding(0.1, f"{clip(text, 30)!r} is {'' if truth else 'not '}a palindrome")
