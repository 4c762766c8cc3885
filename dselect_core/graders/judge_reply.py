"""A judge's reply → its grade and reason, or the reason why there is none. A rating is never guessed.

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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from dselect_core.corpus.sample import json_type
from dselect_core.redact import redact

T = TypeVar("T")

FLOOR = 0.05
LOWEST, HIGHEST = 1, 5
MOST_CHARACTERS = 400_000
"""Of a reply that is read at all; no answer is near it, and reading a longer one would hold up the others."""
MOST_QUOTED = 2_000
"""Characters of a faulty answer that the judge is shown again."""
# Objects that are no JSON, and the characters read of them, before a reply is given up: each may hold the next.
_MOST_BROKEN, _MOST_BROKEN_CHARACTERS = 1_000, 2 * MOST_CHARACTERS
_TEXT_PARTS = ("text", "output_text")
# How endpoints say that a reply did not end by itself, and what to tell.
_CUT = {
    "length": "cut at {max_tokens} tokens (grader.max_tokens) before an answer",
    "max_tokens": "cut at {max_tokens} tokens (grader.max_tokens) before an answer",
    "content_filter": "withheld by the endpoint's content filter",
}

CUT_AT = r"^cut at (\d+) tokens \(grader\.max_tokens\)"
"""The reason of a row whose answer was cut, with the limit that cut it."""

_TAGS = r"(?:think|thinking|thought|thoughts|reasoning|reflection|seed:think)"
# How reasoning begins and ends in what models write: tags, brackets, and channels with or without their tokens.
_OPENS = rf"<{_TAGS}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>(?!\s*final)|<\|channel>(?!\s*final)"
_CLOSES = (
    rf"</{_TAGS}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>\s*final[^<{{]*<\|message\|>|<channel\|>|"
    r"assistantfinal(?=\s*[{`])"
)
_MARK = re.compile(rf"(?P<opens>{_OPENS})|(?P<closes>{_CLOSES})|\{{(?=\s*[\"}}])", re.IGNORECASE)
_CLOSE = re.compile(_CLOSES, re.IGNORECASE)
# What may stand around the object without being prose.
_NOISE = re.compile(r"`+(?:json\w*)?|<\|[^|<>]{1,40}\|>|</?[a-z_]{1,20}>|[*\s]", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """One sample's outcome: `grade` in [0.05, 1], or None with the reason in `error`; tokens as they were billed."""

    grade: float | None = None
    rating: float | None = None
    rationale: str | None = None
    criteria: list[dict[str, Any]] | None = None
    logprob_yes: float | None = None
    logprob_no: float | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    graded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def after(self, first: "Judgement") -> "Judgement":
        """This one, with what an earlier reply for the same sample cost too."""
        return replace(
            self,
            prompt_tokens=_sum(first.prompt_tokens, self.prompt_tokens),
            completion_tokens=_sum(first.completion_tokens, self.completion_tokens),
        )


class NotACompletionError(ValueError):
    """What came back is no chat completion: the endpoint may be another service than it should be."""


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


class Read(Protocol):
    """Reads an answer: the text of a reply and its choice → columns of a judgement. Raises ValueError."""

    def __call__(self, text: str, choice: dict[str, Any], *, cut: bool) -> dict[str, Any]:
        """cut: the reply did not end by itself."""


def read_completion(body: bytes, max_tokens: int, read: Read) -> Judgement:
    """The judgement in the body of a chat completion; what it cost is kept even where there is no grade.

    max_tokens: what the reply was limited to. read: what is asked for. Raises NotACompletionError.
    """
    choice, usage = _choice_of(body)
    judged = partial(
        Judgement, prompt_tokens=_count(usage, "prompt_tokens"), completion_tokens=_count(usage, "completion_tokens")
    )
    message, finish = choice["message"], choice.get("finish_reason")
    if refusal := message.get("refusal"):
        return judged(error=f"the judge refused: {shorten(str(refusal))}")
    cut = _CUT.get(finish) if isinstance(finish, str) else None
    try:
        return judged(**read(_text_of(message), choice, cut=cut is not None))
    except NotACompletionError:
        raise
    except ValueError as error:
        return judged(error=cut.format(max_tokens=max_tokens) if cut else str(error))


def faulty_answer(body: bytes) -> str | None:
    """What a reply without a grade said, reasoning aside, where the judge may be asked once more; None where it said
    nothing, refused or was cut: it would again.
    """
    choice, _ = _choice_of(body)
    if choice["message"].get("refusal") or choice.get("finish_reason") in _CUT:
        return None
    try:
        text = _text_of(choice["message"])
        return redact(text[begin_of_answer(text) :][:MOST_CHARACTERS].strip())[:MOST_QUOTED] or None
    except ValueError:
        return None


def read_rating(text: str, choice: dict[str, Any], *, cut: bool) -> dict[str, Any]:
    """The columns of a judgement on the scale `rating`. Raises ValueError, as `parse_rating`."""
    rating, reason = parse_rating(text, cut=cut)
    return {"grade": rating_to_grade(rating), "rating": rating, "rationale": reason}


def _choice_of(body: bytes) -> tuple[dict[str, Any], Any]:
    """The first choice, with a `message` that is an object, and the usage."""
    try:
        completion = json.loads(body.decode("utf-8"), parse_int=_parse_int)
    except RecursionError:
        raise NotACompletionError("the reply is not a chat completion: it is nested too deeply") from None
    except ValueError:
        start = body[:400].decode("utf-8", "replace")
        raise NotACompletionError(f"the reply is not a chat completion: {shorten(start)!r}") from None
    if not isinstance(completion, dict):
        raise NotACompletionError("the reply is not a chat completion: it is no JSON object")
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
        return choice, completion.get("usage")
    said = completion.get("error")
    why = f"; it says: {shorten(str(said))}" if said else ""
    raise NotACompletionError(f"the reply is not a chat completion: it holds no message{why}")


def _text_of(message: dict[str, Any]) -> str:
    """The text of a message. Of content in parts, the parts of text; reasoning apart from the content is no answer.

    Raises ValueError for content of another form.
    """
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in _TEXT_PARTS]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not content:
        reasoned = any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
        raise ValueError(f"no answer in the reply: {'only reasoning and no answer' if reasoned else 'it is empty'}")
    if not isinstance(content, str):
        raise ValueError(f"no answer in the reply: its content is {json_type(content)}, not text")
    return content


def _count(usage: Any, key: str) -> int | None:
    """A number of tokens as the endpoint says it; None where that is no number."""
    value = usage.get(key) if isinstance(usage, dict) else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys occurred twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        repeated = len(self) < len(pairs)
        self.repeated = sorted(key for key, n in Counter(key for key, _ in pairs).items() if n > 1) if repeated else []


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
    answer, rating = final_object(text, ("rating",), lambda found: check_rating(found["rating"]), cut=cut)
    return rating, reason_of(answer, 500)


def reason_of(answer: dict[str, Any], width: int) -> str | None:
    """The reason in an object of a reply, at most `width` characters; None where it gives none."""
    reason = answer.get("reason")
    return shorten(reason, width) if isinstance(reason, str) and reason.strip() else None


def final_object(
    text: str, keys: Sequence[str], read: Callable[[dict[str, Any]], T], *, cut: bool
) -> tuple[dict[str, Any], T]:
    """The JSON object with any of `keys` that is the answer, by the rule above, and what `read` takes from it.

    Raises ValueError, which says why, where there is none; `read` may too.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"the reply is too long: {len(text):,} characters")
    begin, objects = _read_answer(text)
    answer, rated = text[begin:], [found for found in objects if not found.value.keys().isdisjoint(keys)]
    prose = _without(text, objects)
    named = "|".join(map(re.escape, keys))
    if re.compile(rf"[\"'“](?:{named})[\"'”]\s*:", re.IGNORECASE).search(prose, begin):
        raise ValueError(f"no rating in a whole JSON object: {shorten(answer)!r}")
    if not rated:
        raise ValueError(f"no rating in the reply: {shorten(answer or text)!r}")
    for found in rated:
        if repeated := repeated_keys(found.value):
            raise ValueError(f"the reply gives {', '.join(map(shorten, repeated))} twice")
    values = {read(found.value) for found in rated}
    if len(values) > 1:
        raise ValueError(f"more than one rating in the reply: {sorted(values, key=repr)}")
    if cut and not _is_noise(prose[begin:]):
        raise ValueError(f"the reply was cut: {shorten(answer)!r}")
    begins, ends = _begins_answer(prose, begin, rated[0]), _ends_answer(prose, begin, rated[-1])
    if not begins and not ends:
        raise ValueError(f"the rating stands inside other text: {shorten(answer)!r}")
    return (rated[-1] if ends else rated[0]).value, values.pop()


def repeated_keys(value: Any) -> list[str]:
    """The keys that occur twice in an object of a reply."""
    return value.repeated if isinstance(value, _Object) else []


def begin_of_answer(text: str) -> int:
    """Where the answer begins: after the reasoning. Raises ValueError when there is only reasoning."""
    return _read_answer(text)[0]


def _read_answer(text: str) -> tuple[int, list[_Found]]:
    """Where the answer begins, and its JSON objects.

    Raises ValueError when there is only reasoning, or nesting that nobody reads.
    """
    objects: list[_Found] = []
    begin = at = broken = read_in_vain = 0
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
            except json.JSONDecodeError as error:
                broken += 1
                read_in_vain += error.pos - mark.start()
                if broken > _MOST_BROKEN or read_in_vain > _MOST_BROKEN_CHARACTERS:
                    raise ValueError(f"no rating in the reply: {shorten(text)!r}") from None
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


def check_rating(value: Any) -> float:
    """The rating as a number from 1 to 5. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d(?:\.\d{1,20})?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"rating {shorten(repr(value))} is not a number")
    if not LOWEST <= value <= HIGHEST:
        raise ValueError(f"rating {value:g} is outside {LOWEST} to {HIGHEST}")
    return float(value)


def rating_to_grade(rating: float) -> float:
    """(r - 1)/4 clipped to [0.05, 1]."""
    return min(1.0, max(FLOOR, (rating - LOWEST) / (HIGHEST - LOWEST)))


def shorten(text: str, width: int = 160) -> str:
    """The text on one line, at most `width` characters, without secrets. Half a surrogate pair, which no table can
    hold, and NUL become `?`.
    """
    whole = text[:MOST_CHARACTERS]
    line = " ".join(redact(whole).split())  # before it is cut: half a key is a secret too
    line = line.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
    return line if len(line) <= width and len(whole) == len(text) else line[: width - 1] + "…"
