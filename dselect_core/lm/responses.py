"""Where the responses stand in a rendered conversation.

The whole conversation is rendered once, as the model would see it. A response is what the template prints for an
assistant turn, without what it prints around any answer: headers, empty think blocks, the end-of-turn mark. What that
is shows a second rendering with sentinel answers in place of the real ones; nothing is searched for by its own text.
Where the template marks what the model generates (`{% generation %}`), a response also lies inside its mark.

A template may leave out a part of an earlier turn (its thinking): then what is left is scored. It may not do so with
the last turn, which would be the score of another response [ours].

What this trades off: one to two renderings of a conversation, one more per assistant turn where the template rewrites
one.
"""

import os
from itertools import pairwise

from dselect_core.lm.chat_template import ChatTemplate, UnrenderableError
from dselect_core.lm.message_form import Message, Tools

Span = tuple[int, int]
"""[start, end) in characters of the rendered text."""


def find_responses(template: ChatTemplate, messages: list[Message], tools: Tools = None) -> tuple[str, list[Span]]:
    """The rendered text of accepted messages, and the span of each assistant turn's response, in order.

    The span of a turn that the template leaves out as a whole is empty. Raises UnrenderableError when the template
    refuses the conversation, or does not print the last response as it is.
    """
    text = template.text(messages, tools)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    spans = _by_known_texts(template, messages, tools, text, turns)
    if spans is None:
        marks = template.marked(messages, tools) if template.has_marks else []
        bounds = marks if len(marks) == len(turns) else [(0, len(text))] * len(turns)
        spans = [_span(template, messages, tools, text, turn, bound) for turn, bound in zip(turns, bounds, strict=True)]
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise UnrenderableError("the chat template does not print the turns one after another")
        for turn, span in zip(turns, spans, strict=True):
            _check_printed(messages[turn], text, span, is_last=turn == turns[-1])
    return text, spans


def sentinel(number: int) -> str:
    """An answer that no template rewrites and no conversation holds."""
    return f"dselect7f3a{number}answer"


def _answer(number: int) -> Message:
    return {"role": "assistant", "content": sentinel(number)}


def _by_known_texts(
    template: ChatTemplate, messages: list[Message], tools: Tools, text: str, turns: list[int]
) -> list[Span] | None:
    """The spans where the template prints each turn's content as it is, or stripped; None where it does not.

    All answers are replaced at once, so this is one rendering for any number of turns. It is exact: the parts between
    the sentinels and the contents must make up the whole text.
    """
    if any(messages[turn].get("reasoning_content") or messages[turn].get("tool_calls") for turn in turns):
        return None
    probe = list(messages)
    for number, turn in enumerate(turns):
        probe[turn] = _answer(number)
    rest, around = template.text(probe, tools), []
    for number in range(len(turns)):
        before, found, rest = rest.partition(sentinel(number))
        if not found:
            return None
        around.append(before)
    around.append(rest)
    contents = [messages[turn]["content"] for turn in turns]
    for printed in (contents, [content.strip() for content in contents]):
        spans, at = [], 0
        for before, content in zip(around, printed, strict=False):
            start = at + len(before)
            at = start + len(content)
            spans.append((start, at))
        if at + len(rest) == len(text) and text == _interleave(around, printed):
            return spans
    return None


def _interleave(around: list[str], printed: list[str]) -> str:
    return "".join(part for pair in zip(around, [*printed, ""], strict=True) for part in pair)


def _span(template: ChatTemplate, messages: list[Message], tools: Tools, text: str, turn: int, bound: Span) -> Span:
    """The span of one response: the text without what stands around a sentinel in its place."""
    before, after = _around(template, messages, tools, turn)
    plain_end = len(text) - len(after) if after is not None and text.endswith(after) else None
    if plain_end is not None and not messages[turn].get("tool_calls"):
        end = plain_end
    else:
        # A call may be closed in another way than a plain answer, and the tool's result be printed in its turn.
        own_end = _end_of_turn(template, messages, text, tools, turn)
        known_end = plain_end if own_end is None else own_end
        if known_end is None:
            raise UnrenderableError("the chat template rewrites the turns around a response")
        end = known_end
    if before is not None and text[:end].startswith(before):
        start = len(before)
    else:
        start = _start_of_turn(template, messages, tools, text[:end], turn, before or "")
    start, end = max(start, bound[0]), min(end, bound[1])
    if end < start:
        raise UnrenderableError("the chat template rewrites a response")
    return start, end


def _around(template: ChatTemplate, messages: list[Message], tools: Tools, turn: int) -> tuple[str | None, str | None]:
    """The text in front of, and behind, a plain answer in place of this turn; None where it cannot be told."""
    try:
        probe = template.text([*messages[:turn], _answer(0), *messages[turn + 1 :]], tools)
    except UnrenderableError:  # a tool's result must follow a call
        if turn + 1 == len(messages):
            return None, None
        probe = template.text([*messages[:turn], {**messages[turn], **_answer(0)}, *messages[turn + 1 :]], tools)
        before, found, _ = probe.partition(sentinel(0))
        return (before if found else None), None
    before, found, after = probe.partition(sentinel(0))
    return (before, after) if found else (None, None)


def _start_of_turn(
    template: ChatTemplate, messages: list[Message], tools: Tools, text: str, turn: int, before: str
) -> int:
    """Where the response begins that ends the text, if something else than in front of a plain answer precedes it.

    `before` is what precedes a plain one: a header, and an empty think block that this answer fills.
    """
    opening = template.text(messages[:turn], tools, generation_prompt=True)
    if text.startswith(opening):
        return len(opening)
    common = len(os.path.commonprefix([text, before]))  # noqa: RUF071  (of text, not of paths)
    if messages[turn].get("reasoning_content"):
        return common
    # The answer opens with its own thinking. Letters are counted, because the template may space it in its own way.
    letters = len(_squash(messages[turn]["content"]))
    start = len(text)
    while letters and start:
        start -= 1
        letters -= not text[start].isspace()
    if start > common:
        raise UnrenderableError("the chat template rewrites the turns around a response")
    return start


def _end_of_turn(template: ChatTemplate, messages: list[Message], text: str, tools: Tools, turn: int) -> int | None:
    """Where the response ends, by the conversation that ends with this turn: without what closes a plain answer.

    None where that conversation's text is no beginning of the whole text.
    """
    until = template.text(messages[: turn + 1], tools)
    if not text.startswith(until):
        return None
    closed = template.text([*messages[:turn], _answer(0)], tools)
    closing = closed.partition(sentinel(0))[2]
    if closing and until.endswith(closing):
        return len(until) - len(closing)
    # Llama 3.1 closes a call of a tool with another mark than an answer.
    end, added = until.rstrip(), tuple(template.tokenizer.get_added_vocab())
    while end.endswith(added):
        token = next(token for token in added if end.endswith(token))
        end = end[: -len(token)].rstrip()
    return len(end)


def _check_printed(message: Message, text: str, span: Span, *, is_last: bool) -> None:
    """Raises UnrenderableError where the text does not hold the response that the row has."""
    start, end = span
    printed, content = _squash(text[start:end]), _squash(message["content"])
    calls = message.get("tool_calls") or ()
    for call in calls:
        if str(call.get("function", call).get("name", "")) not in text[start:end]:
            raise UnrenderableError("the chat template does not print calls of tools")
    if calls and content in printed:
        return
    # The beginning of a response may stand in the generation prompt (`<think>`).
    if _squash(text[:end]).endswith(content):
        return
    if is_last or printed not in content:
        raise UnrenderableError(
            "the chat template does not print the response as it is"
            + (" (it leaves out its thinking)" if "</think>" in message["content"] else "")
        )


def _squash(text: str) -> str:
    return "".join(text.split())
