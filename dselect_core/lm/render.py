"""Conversation → token ids and a mask of the response tokens.

The model's own chat template renders each conversation once. The text is cut at the borders of the assistant turns,
and the pieces are tokenised separately and joined as ids. So a response has the same ids in every pass, and no token
crosses a border [ours]. The price: a tokenizer that would merge text across a border gives two tokens there.

One-shot sequences are `shot + continuation`: the shot's zero-shot ids, unchanged, then the target as the template
renders a later turn. A probe conversation finds the border, so the sequence has all that the template puts between two
turns (end-of-turn marks, no second default system prompt).
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from dselect_core.errors import DselectError

Message = dict[str, str]

# Named prompt templates, for tokenizers without a chat template. `alpaca` is the Stanford Alpaca
# layout without its preamble; `plain` puts turns under their role names.
TEMPLATES = {
    "alpaca": (
        "{{ bos_token or '' }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
        "{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "plain": (
        "{{ bos_token or '' }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    ),
}

_PROBE_ANSWER = "probe-7f3a-answer"
_PROBE: list[Message] = [{"role": "user", "content": "probe"}, {"role": "assistant", "content": _PROBE_ANSWER}]


@dataclass(frozen=True)
class Rendered:
    """One conversation as ids, inside the model's window.

    ids: int32 [length]; response: bool [length], the scored tokens (never position 0: it has no predecessor);
    first_response: index of the first response token, the end of the prompt; continuation: int32 [c], the tokens
    between a shot and the first response token; cut_prompt, cut_response: number of tokens cut to fit the window.
    """

    ids: np.ndarray
    response: np.ndarray
    first_response: int
    continuation: np.ndarray
    cut_prompt: int
    cut_response: int

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
        return self.cut_prompt + self.cut_response > 0


class Renderer:
    """Renders with one tokenizer, one template and one window (in tokens).

    template: `auto` (the tokenizer's chat template, else alpaca) or a name in TEMPLATES. Raises DselectError when the
    tokenizer has several chat templates.
    """

    def __init__(self, tokenizer: Any, window: int, template: str = "auto"):
        self.tokenizer = tokenizer
        self.window = window
        if template == "auto" and not getattr(tokenizer, "chat_template", None):
            template = "alpaca"
        self.template_name = "chat" if template == "auto" else template
        self.template = tokenizer.chat_template if template == "auto" else TEMPLATES[template]
        if not isinstance(self.template, str):
            raise DselectError(
                "the tokenizer carries several named chat templates; choose `template: alpaca` or `plain` "
                "under `model` in dselect.yaml, or save the tokenizer with one"
            )

    @property
    def uses_fallback(self) -> bool:
        """Whether a named template replaces the tokenizer's own."""
        return self.template_name != "chat"

    def text(self, messages: list[Message], generation_prompt: bool) -> str:
        """The rendered text; generation_prompt: with the mark that opens the next answer."""
        return str(
            self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=generation_prompt
            )
        )

    def render(self, messages: list[Message]) -> Rendered:
        """One conversation as ids. Raises DselectError when the template does not render it turn by turn."""
        messages = self._accepted(messages)
        pieces = self._pieces(messages, earlier=[])
        continuation = self._pieces(_without_system(messages)[:2], earlier=_PROBE)[0][0]
        texts = [text for text, _ in pieces] + [continuation]
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        ids = np.concatenate([np.asarray(e, dtype=np.int32) for e in encoded[:-1]])
        response = np.concatenate(
            [np.full(len(e), is_response) for e, (_, is_response) in zip(encoded, pieces, strict=False)]
        )
        return _fit(ids, response, np.asarray(encoded[-1], dtype=np.int32), self.window)

    def _accepted(self, messages: list[Message]) -> list[Message]:
        """The messages; if the template refuses a system turn (Gemma), that text opens the first user turn [ours]."""
        if messages[0]["role"] != "system":
            return messages
        try:
            self.text(messages[:2], True)
        except Exception:
            return _without_system(messages)
        return messages

    def _pieces(self, messages: list[Message], earlier: list[Message]) -> list[tuple[str, bool]]:
        """[(text, is response)], alternating, from the end of the `earlier` messages to the end of the last response.

        Offsets count characters of the rendered text.
        """
        end = 0
        if earlier:
            rendered = self.text(earlier, False)
            at = rendered.rfind(earlier[-1]["content"])
            if at < 0:
                raise DselectError("the chat template does not print the assistant's text; choose `template: alpaca`")
            end = at + len(earlier[-1]["content"])
        pieces: list[tuple[str, bool]] = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.text(earlier + messages[:i], True)
            whole = self.text(earlier + messages[: i + 1], False)
            # A template may print more in front of a finished answer than its generation prompt (empty think blocks):
            # look for the answer from where the two texts differ.
            start = max(end, len(os.path.commonprefix([prompt, whole])))  # noqa: RUF071  (of text, not of paths)
            content = message["content"] if message["content"] in whole[start:] else message["content"].strip()
            at = whole.find(content, start)
            if at < 0:
                raise DselectError(
                    "the chat template rewrites assistant turns; choose `template: alpaca` under `model`"
                )
            pieces += [(whole[end:at], False), (content, True)]
            end = at + len(content)
        return pieces


def one_shot(target: Rendered, shot: Rendered, window: int) -> tuple[np.ndarray, np.ndarray, int] | None:
    """(ids int32 [n], response mask bool [n], shot tokens cut) of the target after a shot, n ≤ `window`.

    The scored tokens are the target's zero-shot ones. The shot is cut from the left to fit. None when none of it fits:
    then there is no one-shot loss.
    """
    if target.truncated:
        return None
    tail = np.concatenate([target.continuation, target.ids[target.first_response :]])
    mask = np.concatenate([np.zeros(len(target.continuation), bool), target.response[target.first_response :]])
    room = window - len(tail)
    if room <= 0:
        return None
    shot_ids = shot.ids[-room:]
    ids = np.concatenate([shot_ids, tail])
    return ids, np.concatenate([np.zeros(len(shot_ids), bool), mask]), len(shot.ids) - len(shot_ids)


def _without_system(messages: list[Message]) -> list[Message]:
    if messages[0]["role"] != "system":
        return messages
    system, user, *later = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *later]


def _fit(ids: np.ndarray, response: np.ndarray, continuation: np.ndarray, window: int) -> Rendered:
    """Cut to the window: the prompt from the left first, then the last response from the right."""
    total = len(ids)
    excess = total - window
    if excess > 0:
        last_response = total - int(np.flatnonzero(~response)[-1]) - 1 if not response.all() else total
        left = max(0, min(excess, total - last_response - 1))
        right = excess - left
        window_slice = slice(left, total - right)
        cut_response = int(response[:left].sum()) + right
        cut_prompt = left + right - cut_response
        ids, response = ids[window_slice], response[window_slice]
    else:
        cut_prompt = cut_response = 0
    response = response.copy()
    cut_response += int(response[0])  # nothing predicts the first token
    response[0] = False
    positions = np.flatnonzero(response)
    first = int(positions[0]) if len(positions) else len(ids)
    return Rendered(ids, response, first, continuation, cut_prompt, cut_response)
