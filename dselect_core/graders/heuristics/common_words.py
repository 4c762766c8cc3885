"""The most frequent English words.

To share one says nothing about a subject (off_topic.py), and to stop inside one is a cut (cut_off.py). The list in
common_words.txt was written by hand for these two checks. It is no lexicon, and it is English only.
"""

from functools import lru_cache
from importlib import resources


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """The list, in lower case and without plural s."""
    text = resources.files("dselect_core.graders.heuristics").joinpath("common_words.txt").read_text("utf-8")
    return frozenset(singular(word) for line in text.splitlines() if not line.startswith("#") for word in line.split())


def singular(word: str) -> str:
    """`word` without a plural s: enough to compare two words of one language."""
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word


@lru_cache(maxsize=4096)
def begins_common_word(start: str) -> bool:
    """Whether `start` is only the beginning of a common word, not one itself."""
    return singular(start) not in common_words() and any(word.startswith(start) for word in common_words())
