"""Check for answers that loop. [ours]

A loop repeats long runs of words. Lists whose items begin alike repeat short runs only, and are left alone, as are
verse and requests for repetition. Loops shorter than the thresholds are missed.
"""

import re
from collections import Counter

from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_SAME_WORD_RUN = re.compile(r"\b(\w{2,})(?:[\s,.]+\1\b){4,}", re.IGNORECASE)
_REPEAT_WANTED = re.compile(
    r"\b(?:repeat|times|song|lyrics|poem|chorus|pattern|verse|haiku|rap|chant|loop)\b", re.IGNORECASE
)
_RUN, _READ_WORDS = 8, 2000
"""Words of a run. With runs of four, a list of metaphors (`The night sky was a …`) was taken for a loop."""


def find_repetition(turn: Turn) -> Finding | None:
    """One word five times in a row, one sentence or line again and again, or the same eight words four times."""
    if len(turn.words) < 8 or _REPEAT_WANTED.search(turn.prompt[:500]):
        return None
    run = _SAME_WORD_RUN.search(turn.prose)
    if run is not None and not run[1].isdigit():
        return Finding(0.2, f"repeats {clip(run[0], 40)!r}")
    words = turn.prose.split()
    if len(words) < 24:
        return None
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", turn.prose) if len(s) > 20]
    if sentences:
        sentence, times = Counter(sentences).most_common(1)[0]
        if times >= 3 and times * len(sentence) > 0.3 * len(turn.prose):
            return Finding(0.2, f"says {times} times: {clip(sentence, 40)}")
    if "|" not in turn.prose:
        runs = Counter(tuple(words[i : i + _RUN]) for i in range(min(len(words), _READ_WORDS) - _RUN + 1))
        run_words, times = runs.most_common(1)[0]
        if times >= 4:
            return Finding(0.2, f"says {times} times: {clip(' '.join(run_words), 40)}")
    return None
