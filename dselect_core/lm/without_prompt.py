"""The responses of a conversation without their prompts: what IFD calls the direct answer.

Each assistant turn stands alone behind what the template prints in front of an answer to nothing: no system prompt, no
tools, no user turn where the template allows that, else one with an empty text [ours; after the `### Response:` that
Cherry LLM leaves in front]. The scored ids are those that the whole conversation has, so both losses are of the same
tokens. Where the template prints nothing in front of an answer, its first token has no predecessor and is not scored,
as in Superfiltering [second].

What this trades off: a template that prints something else in front of an answer with thinking is asked for every such
answer; all others stand behind one and the same beginning.
"""

from functools import cached_property

import numpy as np

from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.message_form import Message, turn
from dselect_core.lm.render import Rendered, Renderer
from dselect_core.lm.responses import find_responses

_PLAIN, _THINKING = turn("assistant", "answer"), turn("assistant", "<think>\nthought\n</think>\n\nanswer")


class WithoutPrompt:
    """Cuts rendered conversations into their responses, with one renderer."""

    def __init__(self, renderer: Renderer):
        self._renderer = renderer
        self._ids_of_text: dict[str, np.ndarray] = {}

    def sequences(self, rendered: Rendered) -> list[tuple[np.ndarray, np.ndarray]]:
        """(ids int32 [n], scored bool [n]) of each assistant turn that has a token to score, in order.

        None is longer than the window. Raises UnrenderableError when the template prints no answer without a prompt.
        """
        answers = [message for message in rendered.messages if message["role"] == "assistant"]
        sequences = []
        for message, (start, end) in zip(answers, rendered.turns, strict=True):
            if end > start:
                own = rendered.ids[start:end]
                front = self._in_front_of(message)
                front = front[max(0, len(front) + len(own) - self._renderer.window) :]
                scored = np.arange(len(front) + len(own)) >= max(1, len(front))
                if scored.any():
                    sequences.append((np.concatenate([front, own]), scored))
        return sequences

    def _in_front_of(self, answer: Message) -> np.ndarray:
        """Ids of what the template prints in front of the answer."""
        is_plain = not (answer.get("reasoning_content") or answer.get("tool_calls") or "</think>" in answer["content"])
        text = self._text_in_front_of(_PLAIN if is_plain else answer, self._no_prompt)
        if text not in self._ids_of_text:
            # With something behind it: a tokenizer that joins over borders sees the border that there is.
            self._ids_of_text[text] = self._renderer.pieces.encode([text, _PLAIN["content"]])[0]
        return self._ids_of_text[text]

    @cached_property
    def _no_prompt(self) -> list[Message]:
        """What stands in front of an answer to nothing: what serves every answer, or else those without thinking.

        Raises UnrenderableError when the template takes none of it.
        """
        for answers in ([_PLAIN, _THINKING], [_PLAIN]):
            for prompt in ([], [turn("user", "")]):
                try:
                    for answer in answers:
                        self._text_in_front_of(answer, prompt)
                except UnrenderableError:
                    continue
                return prompt
        raise UnrenderableError("the chat template prints no answer without a prompt")

    def _text_in_front_of(self, answer: Message, prompt: list[Message]) -> str:
        text, spans = find_responses(self._renderer.template, [*prompt, answer])
        return text[: spans[-1][0]]
