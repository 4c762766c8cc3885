"""A whole conversation, or a whole question about one, as token ids: it fits into the window, or there are none.

A grade of a part of a conversation would pass for that of the whole. So nothing is cut here, unlike in render.py.
"""

from typing import Any

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.lm.chat_template import ChatTemplate
from dselect_core.lm.piece_tokenizer import PieceTokenizer
from dselect_core.settings.model_spec import TEMPLATE_DATE

# Tokens beyond the window that a text may still seem to have before it is tokenised.
_MARGIN = 64


class DoesNotFitError(ValueError):
    """A text that is longer than the window. The message is the reason of the row's null."""


class WholeText:
    """Text → ids with one tokenizer and one window (in tokens). template: the tokenizer's own chat template.

    Raises DselectError for a tokenizer without a chat template, since what its model was tuned on is then not known.
    """

    def __init__(self, tokenizer: Any, window: int):
        self.window = window
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, "auto", TEMPLATE_DATE)
        if self.template.uses_fallback:
            raise DselectError(
                "its tokenizer has no chat template, so how a conversation is to be printed for it is not known. Save "
                "the tokenizer with the template that the model was tuned with"
            )
        self._pieces = PieceTokenizer(tokenizer)

    def ids(self, text: str, room: int = 0) -> np.ndarray:
        """int32 [length] of a rendered text, without special tokens that the tokenizer adds by itself.

        room: tokens that must fit behind it. Raises DoesNotFitError.
        """
        # A text that no window can hold is not tokenised, so that time and memory do not follow one row.
        if len(text) > (self.window + _MARGIN) * self._pieces.longest_token:
            raise DoesNotFitError(f"longer than the grader's window of {self.window} tokens")
        ids = self._pieces.encode([text])[0]
        if len(ids) + room > self.window:
            raise DoesNotFitError(
                f"{len(ids)} tokens{f' and {room} for the answer' if room else ''}: longer than the grader's window of "
                f"{self.window} tokens"
            )
        return ids
