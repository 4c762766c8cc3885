"""Check for answers that loop. Verse and requests for repetition are left alone. [ours]"""

import re
from collections import Counter

from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_SAME_WORD_RUN = re.compile(r"\b(\w{2,})(?:[\s,.]+\1\b){4,}", re.IGNORECASE)
_REPEAT_WANTED = re.compile(
    r"\b(?:repeat|times|song|lyrics|poem|chorus|pattern|verse|haiku|rap|chant|loop)\b", re.IGNORECASE
)


def repetitive(turn: Turn) -> Finding | None:
    """The same word five times running, the same sentence or line over and over, or few distinct four-word runs."""
    words = turn.words
    if len(words) < 8 or _REPEAT_WANTED.search(turn.prompt[:500]):
        return None
    run = _SAME_WORD_RUN.search(turn.prose)
    if run is not None and not run[1].isdigit():
        return Finding(0.2, f"repeats {clip(run[0], 40)!r}")
    prose = turn.prose.split()
    if len(prose) < 24:
        return None
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", turn.prose) if len(s) > 20]
    if sentences:
        sentence, times = Counter(sentences).most_common(1)[0]
        if times >= 3 and times * len(sentence) > 0.3 * len(turn.prose):
            return Finding(0.2, f"says {times} times: {clip(sentence, 40)}")
    if len(prose) >= 40 and "|" not in turn.prose:
        grams = [tuple(prose[i : i + 4]) for i in range(min(len(prose), 2000) - 3)]
        if len(set(grams)) < 0.5 * len(grams):
            return Finding(0.2, "the same phrases over and over")
    return None
