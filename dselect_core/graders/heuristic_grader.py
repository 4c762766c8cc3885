"""The builtin grader: cheap, deterministic checks of an answer, no model and no network. [ours]

It stands in for D3's external LLM where none is configured, and every record names it, because it is much less: it
finds answers that are empty, broken off, looping, off the request, or that state a false equation (checks listed in
heuristics/__init__.py, measured in docs/heuristic-grader.md), and says nothing about the rest. A sample without a
finding has grade 1; factors of several findings multiply; a conversation is as good as its weakest answer.

Any change to a check that can change a grade raises VERSION.
"""

from collections.abc import Mapping, Sequence

from dselect_core.graders.heuristics import CHECKS
from dselect_core.graders.heuristics.turn import Finding, Turn, turns

VERSION = 2
NAME = f"builtin-heuristic/{VERSION}"
FLOOR = 0.05
NOTHING_FOUND = "no fault found by the checks"


def grade_messages(messages: Sequence[Mapping[str, str]]) -> tuple[float, str]:
    """Grade in [0.05, 1] of one conversation (`role`, `content` mappings), and one line on what was found."""
    worst, line = 1.0, NOTHING_FOUND
    for turn in turns(messages):
        found = findings(turn)
        value = 1.0
        for finding in found:
            value *= finding.factor
        if value < worst:
            worst, line = value, "; ".join(finding.reason for finding in found)
    return max(FLOOR, round(worst, 6)), line


def findings(turn: Turn) -> list[Finding]:
    """What the checks say of one answer. An empty answer is only that."""
    found: list[Finding] = []
    for check in CHECKS:
        finding = check(turn)
        if finding is not None:
            found.append(finding)
            if not turn.response:
                break
    return found
