"""Pieces of one text → token ids of each piece: the ids of the whole text, but no token crosses a border.

Most tokenizers give a text the same tokens wherever it stands, so the pieces are tokenised apart. Those that put a
space in front of any text they are given (SentencePiece: Llama 2, Mistral 7B) would put one in front of every piece.
For them the whole text is tokenised, pieces are told apart by offsets, and a token that lies across a border is
replaced by the tokens of its two parts.

What this trades off: near a border the ids may differ from those of the whole text, because a response must have the
same ids in every pass.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

# Characters that are put in front of a text so that a tokenizer adds its space there; one that merges is not used.
_ANCHORS = ("\n", "|", ".", "\t", "。")
# Borders that are tokenised both ways to see whether a tokenizer adds a space: (piece, next piece).
_PROBES = (("probe\n", "Iron"), ("probe>", "Iron."), ("probe]\n\n", "a"))


class PieceTokenizer:
    """Tokenises with one Hugging Face tokenizer, without the special tokens that it adds by itself."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    @cached_property
    def adds_prefix(self) -> bool:
        """Whether a piece that is tokenised alone gets something in front that it does not have in the text."""
        if not getattr(self.tokenizer, "is_fast", False):
            return False
        for pieces in _PROBES:
            ids, offsets = self._with_offsets("".join(pieces))
            border = len(pieces[0])
            if all(end <= border or start >= border for start, end in offsets):
                apart = [id for piece in pieces for id in self._ids(piece)]
                if apart != ids:
                    return True
        return False

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token, at least 16."""
        return max(16, max(map(len, self.tokenizer.get_vocab()), default=0))

    def encode(self, pieces: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each piece; joined, they are the tokens of the joined text."""
        if not self.adds_prefix:
            encoded = self.tokenizer(list(pieces), add_special_tokens=False)["input_ids"] if pieces else []
            return [np.asarray(ids, dtype=np.int32) for ids in encoded]
        return self._encode_whole(pieces)

    def decode(self, ids: np.ndarray) -> str:
        """The text of the ids, special tokens included."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _encode_whole(self, pieces: Sequence[str]) -> list[np.ndarray]:
        text = "".join(pieces)
        ends = list(accumulate(map(len, pieces)))
        ids_of_piece: list[list[int]] = [[] for _ in pieces]
        piece = 0
        for id, (start, end) in zip(*self._with_offsets(text), strict=True):
            while piece < len(pieces) - 1 and start >= ends[piece]:
                piece += 1
            if end <= ends[piece]:
                ids_of_piece[piece].append(id)
                continue
            # The token lies across the border: a token of each part. It may lie across several.
            while start < end:
                part_end = min(end, ends[piece])
                if part_end > start:
                    ids_of_piece[piece] += self._without_prefix(text[start:part_end])
                start = part_end
                if start < end:
                    piece += 1
        return [np.asarray(ids, dtype=np.int32) for ids in ids_of_piece]

    def _without_prefix(self, text: str) -> list[int]:
        """The tokens that the text has when it does not stand at the beginning."""
        for anchor in _ANCHORS:
            ids, offsets = self._with_offsets(anchor + text)
            if all(end <= len(anchor) or start >= len(anchor) for start, end in offsets):
                return [id for id, (_, end) in zip(ids, offsets, strict=True) if end > len(anchor)]
        return self._ids(text)

    def _with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
