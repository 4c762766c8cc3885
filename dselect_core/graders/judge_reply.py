"""A judge's reply → its rating and reason, or the reason why there is none. A rating is never guessed.

The rule. Reasoning is no answer: what stands in a think block, before the end of one whose beginning the chat template
wrote, or in another channel than `final`, is passed over; after a block that never ends there is no answer. In the
answer, the JSON object with `rating` counts where it is whole and is the answer: it begins the answer and nothing else
follows on its line, or it ends the answer and begins its line or follows a colon. Code fences, tags and special tokens
around it do not matter. There is no rating where
- the reply was cut (at the limit of tokens, by a filter) and anything but the object stands in the answer,
- a key of the object occurs twice, or two objects give different ratings,
- `"rating":` also stands outside of a whole object: that object is broken or cut,
- the rating is no number from 1 to 5.

Trade-off: a rating in the middle of prose may be the judge's own or quoted from the sample. It is refused, and the row
is asked again later.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from dselect_core.redact import redact

LOWEST, HIGHEST = 1, 5
MOST_CHARACTERS = 400_000
"""Of a reply that is read at all; no answer is near it, and reading a longer one would hold up the others."""

_TAGS = r"(?:think|thinking|thought|thoughts|reasoning|reflection|seed:think)"
# How reasoning begins and ends in what models write: tags, brackets, and channels with or without their tokens.
_OPENS = rf"<{_TAGS}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>(?!\s*final)|<\|channel>(?!\s*final)"
_CLOSES = (
    rf"</{_TAGS}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>\s*final[^<{{]*<\|message\|>|<channel\|>|"
    r"assistantfinal(?=\s*[{`])"
)
_MARK = re.compile(rf"(?P<opens>{_OPENS})|(?P<closes>{_CLOSES})|\{{", re.IGNORECASE)
_CLOSE = re.compile(_CLOSES, re.IGNORECASE)
# What may stand around the object without being prose.
_NOISE = re.compile(r"`+(?:json\w*)?|<\|[^|<>]{1,40}\|>|</?[a-z_]{1,20}>|[*\s]", re.IGNORECASE)
_RATING_KEY = re.compile(r"[\"'“]rating[\"'”]\s*:", re.IGNORECASE)


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys occurred twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(self) < len(keys) else []


class _Found(NamedTuple):
    begin: int
    end: int
    value: _Object


def _parse_int(digits: str) -> int | float:
    """Python refuses to read integers of thousands of digits; as a float such a number is infinite."""
    return int(digits) if len(digits) < 20 else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_int=_parse_int)


def parse_rating(text: str, *, cut: bool = False) -> tuple[float, str | None]:
    """Rating in [1, 5] and reason from the text of a reply, by the rule above. cut: the reply did not end by itself.

    Raises ValueError, which says why, where there is no rating.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"the reply is too long: {len(text):,} characters")
    begin, objects = _read_answer(text)
    answer, rated = text[begin:], [found for found in objects if "rating" in found.value]
    prose = _without(text, objects)
    if _RATING_KEY.search(prose, begin):
        raise ValueError(f"no rating in a whole JSON object: {shorten(answer)!r}")
    if not rated:
        raise ValueError(f"no rating in the reply: {shorten(answer or text)!r}")
    for found in rated:
        if found.value.repeated:
            raise ValueError(f"the reply gives {', '.join(map(shorten, found.value.repeated))} twice")
    ratings = {_check_rating(found.value["rating"]) for found in rated}
    if len(ratings) > 1:
        raise ValueError(f"more than one rating in the reply: {sorted(ratings)}")
    if cut and not _is_noise(prose[begin:]):
        raise ValueError(f"the reply was cut: {shorten(answer)!r}")
    begins, ends = _begins_answer(prose, begin, rated[0]), _ends_answer(prose, begin, rated[-1])
    if not begins and not ends:
        raise ValueError(f"the rating stands inside other text: {shorten(answer)!r}")
    reason = (rated[-1] if ends else rated[0]).value.get("reason")
    return ratings.pop(), shorten(reason, 500) if isinstance(reason, str) and reason.strip() else None


def _read_answer(text: str) -> tuple[int, list[_Found]]:
    """Where the answer begins, and its JSON objects.

    Raises ValueError when there is only reasoning, or nesting that nobody reads.
    """
    objects: list[_Found] = []
    begin = at = 0
    while mark := _MARK.search(text, at):
        at = mark.end()
        if mark["opens"]:
            close = _CLOSE.search(text, at)
            if close is None:
                raise ValueError(f"only reasoning and no answer in the reply: {shorten(text)!r}")
            begin = at = close.end()
            objects.clear()
        elif mark["closes"]:
            begin = at
            objects.clear()
        else:
            try:
                value, end = _DECODER.raw_decode(text, mark.start())
            except RecursionError:
                raise ValueError("the reply is nested too deeply") from None
            except ValueError:
                continue
            objects.append(_Found(mark.start(), end, value))
            at = end
    return begin, objects


def _without(text: str, objects: Iterable[_Found]) -> str:
    """The text with spaces in place of its whole objects."""
    pieces, at = [], 0
    for found in objects:
        pieces += [text[at : found.begin], " " * (found.end - found.begin)]
        at = found.end
    return "".join([*pieces, text[at:]])


def _is_noise(text: str) -> bool:
    """Whether the text holds nothing but what may stand around an object."""
    return not _NOISE.sub("", text).strip(".;,")


def _begins_answer(prose: str, begin: int, found: _Found) -> bool:
    """Whether nothing stands before the object, and nothing after it on its line."""
    return _is_noise(prose[begin : found.begin]) and _is_noise(prose[found.end :].split("\n", 1)[0])


def _ends_answer(prose: str, begin: int, found: _Found) -> bool:
    """Whether nothing stands after the object, and before it on its line nothing or a text that ends with a colon."""
    line = prose[begin : found.begin].rsplit("\n", 1)[-1]
    return _is_noise(prose[found.end :]) and (_is_noise(line) or _NOISE.sub("", line).endswith((":", "：")))


def _check_rating(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"\s*\d(?:\.\d{1,20})?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"rating {shorten(repr(value))} is not a number")
    if not LOWEST <= value <= HIGHEST:
        raise ValueError(f"rating {value:g} is outside {LOWEST} to {HIGHEST}")
    return float(value)


def shorten(text: str, width: int = 160) -> str:
    """The text on one line, at most `width` characters, as text that can be stored: half a surrogate pair is `?`."""
    # A secret is hidden before the text is cut: half a key is a secret too.
    hidden = redact(text[:MOST_CHARACTERS])
    line = " ".join(hidden[: 8 * width].split()).encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
    return line if len(line) <= width and len(hidden) <= 8 * width else line[: width - 1] + "…"
