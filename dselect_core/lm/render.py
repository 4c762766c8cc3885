"""Conversation → token ids and a mask of the response tokens, alone and behind a shot.

One principle: the whole conversation is rendered as the model would see it (chat_template.py), each response is found
in that text (responses.py), and the ids are those of the text, except that no token crosses the border of a response
(piece_tokenizer.py) [ours]. So a response has the same ids in every pass. Every rendering is checked before a model
sees it: the scored ids decode to the response, and all ids to the template's text.

A one-shot sequence is the template's text of the shot's conversation followed by the target's. Where that text begins
with the shot's own text, its ids begin with the shot's own ids, and the shot runs once for all its targets. Templates
that print a turn in another way once it is history (Qwen3) do not share: there the sequence is tokenised whole. The
target's system prompt opens its user turn, because one conversation has one system prompt, the shot's [ours]; without a
shot it stays where it is.

Text beyond what any window can hold is cut by characters before it is tokenised, so that memory does not follow one
row: then the number of tokens cut is unknown.
"""

import datetime
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dselect_core.fingerprint import fingerprint
from dselect_core.lm.chat_template import ChatTemplate, UnrenderableError
from dselect_core.lm.message_form import Message, Tools, without_system
from dselect_core.lm.piece_tokenizer import PieceTokenizer
from dselect_core.lm.responses import find_responses
from dselect_core.settings.model_spec import TEMPLATE_DATE

RENDERING = 2
"""Revision of the rendering. It is part of a provenance only where revision 1 (dselect 0.1, 0.2) gave other ids."""

# Tokens around the window that are tokenised too, so that those inside are those of the whole text.
_MARGIN = 64


@dataclass(frozen=True)
class Rendered:
    """One conversation as ids, inside the model's window.

    ids: int32 [length]; response: bool [length], the scored tokens (never position 0: it has no predecessor);
    first_response: index of the first response token, the end of the prompt; cut_prompt, cut_response: number of tokens
    cut to fit the window, None where text was cut before it was tokenised. turns: [start, end) of the scored tokens of
    each assistant turn, in order. text: the template's, up to the end of the last response; closing: what it prints
    behind; tail_start: where the first response begins, in characters. messages, tools: as the template takes them.
    """

    ids: np.ndarray
    response: np.ndarray
    first_response: int
    cut_prompt: int | None
    cut_response: int | None
    turns: list[tuple[int, int]] = field(repr=False)
    text: str = field(repr=False)
    closing: str
    tail_start: int
    messages: list[Message] = field(repr=False)
    tools: Tools = field(repr=False, default=None)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens that are not scored."""
        return len(self.ids) - self.response_tokens

    @property
    def response_tokens(self) -> int:
        """Number of scored tokens."""
        return int(self.response.sum())

    @property
    def truncated(self) -> bool:
        """Whether the window cut the conversation."""
        return self.cut_prompt is None or self.cut_response is None or self.cut_prompt + self.cut_response > 0

    @property
    def tail(self) -> str:
        """The text from the first response on, which is the same behind every shot."""
        return self.text[self.tail_start :]


@dataclass(frozen=True)
class OneShot:
    """A target behind its shot: ids int32 [n], scored bool [n]; cut_shot: tokens of the shot that did not fit, None
    where text was cut before it was tokenised.

    shared: number of ids that are, one for one, the shot's own; 0 where the template does not let them be shared.
    """

    ids: np.ndarray
    scored: np.ndarray
    cut_shot: int | None
    shared: int


class Renderer:
    """Renders with one tokenizer, one template and one window (in tokens).

    template: as in ChatTemplate. date: what a template that prints today's date gets.
    """

    def __init__(self, tokenizer: Any, window: int, template: str = "auto", date: datetime.date = TEMPLATE_DATE):
        self.tokenizer = tokenizer
        self.window = window
        self.template = ChatTemplate(tokenizer, template, date)
        self.pieces = PieceTokenizer(tokenizer)

    def render(self, messages: list[Message], tools: Tools = None) -> Rendered:
        """One conversation as ids. Raises UnrenderableError with the reason when the template does not render it."""
        messages, tools = self.template.accepted(messages, tools)
        text, spans = find_responses(self.template, messages, tools)
        pieces: list[tuple[str, bool]] = []
        end = 0
        for start, stop in spans:
            pieces += [(text[end:start], False), (text[start:stop], True)]
            end = stop
        kept, prompt_unknown, response_unknown = self._cut_text(pieces)
        encoded = self.pieces.encode([piece for piece, _ in kept])
        for (piece, _), piece_ids in zip(kept, encoded, strict=True):
            self._check(piece, piece_ids)
        mask = np.repeat([is_response for _, is_response in kept], [len(piece_ids) for piece_ids in encoded])
        ids, response, cut_prompt, cut_response, left = _fit(np.concatenate(encoded), mask, self.window)
        ends = np.cumsum([len(piece_ids) for piece_ids in encoded]) - left
        # Nothing predicts the first token.
        bounds = [
            (max(int(end) - len(own), 1), min(int(end), len(ids))) for end, own in zip(ends, encoded, strict=True)
        ]
        return Rendered(
            ids,
            response,
            int(np.flatnonzero(response)[0]) if response.any() else len(ids),
            None if prompt_unknown else cut_prompt,
            None if response_unknown else cut_response,
            [(start, max(start, stop)) for (start, stop), (_, scored) in zip(bounds, kept, strict=True) if scored],
            text[:end],
            text[end:],
            next((start for start, stop in spans if stop > start), end),
            messages,
            tools,
        )

    def one_shot(self, target: Rendered, shot: Rendered) -> OneShot | None:
        """The target behind the shot, at most `window` tokens; its scored tokens are those of the target alone.

        The shot is cut from the left to fit. None when nothing of it fits: then there is no one-shot loss. Raises
        UnrenderableError when the template prints the target's responses in another way behind a shot.
        """
        if target.truncated:
            return None
        together = [*shot.messages, *without_system(target.messages)]
        text = self.template.text(together, _joined(shot.tools, target.tools))
        end = target.tail + target.closing
        if not text.endswith(end):
            raise UnrenderableError("the chat template prints the response in another way behind a shot")
        context = text[: len(text) - len(end)]
        tail, scored = target.ids[target.first_response :], target.response[target.first_response :]
        shot_ids, own = self._context(context, shot, target)
        shared = np.array_equal(shot_ids, shot.ids)
        room = self.window - len(own) - len(tail)
        if room <= 0:
            return None
        kept = shot_ids[-room:]
        ids = np.concatenate([kept, own, tail])
        scored = np.concatenate([np.zeros(len(kept) + len(own), dtype=bool), scored])
        cut = len(shot_ids) - len(kept)
        is_whole = shared or len(context) <= self._characters
        return OneShot(ids, scored, cut if is_whole else None, len(kept) if shared and not cut else 0)

    def _context(self, context: str, shot: Rendered, target: Rendered) -> tuple[np.ndarray, np.ndarray]:
        """(ids of the shot, ids between it and the target's first response)."""
        if context.startswith(shot.text) and (not self.pieces.adds_prefix or not shot.truncated):
            between = context[len(shot.text) :]
            if not self.pieces.adds_prefix:
                own = self.pieces.encode([between])[0]
                self._check(between, own)
                return shot.ids, own
            shot_ids, own, _ = self.pieces.encode([shot.text, between, target.tail])
            if np.array_equal(shot_ids, shot.ids):
                return shot_ids, own
        # The shot is printed in another way once it is history. Where it ends is told by the target's own prompt, which
        # has as many tokens alone.
        context = context[-self._characters :]
        ids = self.pieces.encode([context, target.tail])[0]
        self._check(context, ids)
        own_tokens = min(target.first_response, len(ids))
        return ids[: len(ids) - own_tokens], ids[len(ids) - own_tokens :]

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether a conversation's text begins that of a longer one, so that a shot is run once for all its targets."""
        short, long = _PROBE[:2], _PROBE
        try:
            text, spans = find_responses(self.template, *self.template.accepted(short))
            return self.template.text(*self.template.accepted(long)).startswith(text[: spans[-1][1]])
        except UnrenderableError:
            return False

    @property
    def provenance(self) -> dict[str, Any]:
        """What can change an id: the template, the date where it is read, the revision where it counts.

        `shares_shots` is false where the template does not let a shot be shared: plans count tokens by it.
        """
        revision = {} if self._renders_as_revision_1 else {"rendering": RENDERING}
        date = {"date": self.template.date.isoformat()} if self.template.reads_date else {}
        shares = {} if self.shares_prefixes else {"shares_shots": False}
        return {"template": fingerprint(self.template.source), **revision, **date, **shares}

    @cached_property
    def _renders_as_revision_1(self) -> bool:
        """Whether dselect 0.1 and 0.2 gave the same ids with this tokenizer and template: then their scores stand."""
        template = self.template
        if self.pieces.adds_prefix or template.reads_date or not self.shares_prefixes:
            return False
        if not (template.keeps_system or template.refuses_system):
            return False
        try:
            opening = template.text(_PROBE[:1], generation_prompt=True)
            text, spans = find_responses(template, _PROBE[:2])
            thinking = find_responses(template, [_PROBE[0], _THINKING, *_PROBE[2:]])
        except UnrenderableError:
            return False
        # Revision 1 looked for the answer from where the text leaves the generation prompt, and so found a short one in
        # whatever the template prints in between.
        between = text[len(os.path.commonprefix([opening, text])) : spans[0][0]]  # noqa: RUF071  (of text, not of paths)
        thought = thinking[0][slice(*thinking[1][0])]
        return not between.strip() and thought == _THINKING["content"]

    @property
    def _characters(self) -> int:
        """Characters that hold at least the window's tokens, and some around it."""
        return (self.window + _MARGIN) * self.pieces.longest_token

    def _cut_text(self, pieces: list[tuple[str, bool]]) -> tuple[list[tuple[str, bool]], bool, bool]:
        """The pieces without text that no window can hold, and whether prompts, and whether responses, were cut.

        The last response is cut from the right, all in front of it from the left.
        """
        limit = self._characters
        *front, (last, _) = pieces
        excess = sum(len(piece) for piece, _ in front) - limit
        cut_prompt, cut_response = excess > 0, len(last) > limit
        kept = []
        for piece, is_response in front:
            cut = min(max(excess, 0), len(piece))
            excess -= cut
            cut_response |= is_response and cut > 0
            kept.append((piece[cut:], is_response))
        return [*kept, (last[:limit], True)], cut_prompt, cut_response

    def _check(self, text: str, ids: np.ndarray) -> None:
        """Raises UnrenderableError where the ids are not those of the text.

        A tokenizer that changes text (lower case, unknown characters) is held to what it makes of the text alone.
        """
        decoded = self.pieces.decode(ids)
        if decoded in (text, text.removeprefix(" ")):
            return
        alone = self.pieces.decode(self.pieces.encode([text])[0])
        if "".join(decoded.split()) != "".join(alone.split()):
            raise UnrenderableError("the tokens do not decode to the text that the chat template prints")


_PROBE: list[Message] = [
    {"role": "user", "content": "probe question"},
    {"role": "assistant", "content": "probe answer"},
    {"role": "user", "content": "another question"},
    {"role": "assistant", "content": "another answer"},
]
_THINKING: Message = {"role": "assistant", "content": "<think>\nprobe thought\n</think>\n\nprobe answer"}


def _joined(tools: Tools, more: Tools) -> Tools:
    if not tools or not more:
        return tools or more
    return [*tools, *(tool for tool in more if tool not in tools)]


def _fit(ids: np.ndarray, response: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """(ids, response, prompt and response tokens cut, tokens cut on the left): the prompt is cut from the left first,
    then the last response from the right.
    """
    total = len(ids)
    excess = total - window
    cut_prompt = cut_response = left = 0
    if excess > 0:
        last_response = total - int(np.flatnonzero(~response)[-1]) - 1 if not response.all() else total
        left = max(0, min(excess, total - last_response - 1))
        right = excess - left
        cut_response = int(response[:left].sum()) + right
        cut_prompt = left + right - cut_response
        ids, response = ids[left : total - right], response[left : total - right]
    response = response.copy()
    if len(response):
        cut_response += int(response[0])  # nothing predicts the first token
        response[0] = False
    return ids, response, cut_prompt, cut_response, left
