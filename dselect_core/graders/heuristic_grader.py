"""The builtin grader: cheap, deterministic checks of an answer. It needs no model and no network. [ours]

It stands in for the external LLM of D3 where no endpoint is configured. It is much less than an LLM: it finds answers
that are empty, refused, cut, looping, without the code that was asked, off topic or wrong in an equation, and it
says nothing about all others (docs/heuristic-grader.md has precision and recall). Every record names it.

A sample without a finding has grade 1. The factors of several findings multiply. A conversation is as good as its
weakest answer. Raise VERSION with any change that can change a grade: grades of two versions are never mixed.
"""

from collections.abc import Mapping, Sequence

from dselect_core.graders.heuristics import CHECKS
from dselect_core.graders.heuristics.turn import Finding, Turn, turns

VERSION = 3
NAME = f"builtin-heuristic/{VERSION}"
FLOOR = 0.05
NOTHING_FOUND = "no fault found by the checks"


def grade_messages(messages: Sequence[Mapping[str, str]]) -> tuple[float, str]:
    """Grade in [0.05, 1] of one conversation (`role`, `content` mappings), and one line with the reasons. [ours]"""
    worst, rationale = 1.0, NOTHING_FOUND
    for turn in turns(messages):
        turn_findings = find_faults(turn)
        value = 1.0
        for finding in turn_findings.values():
            value *= finding.factor
        if value < worst:
            worst, rationale = value, "; ".join(finding.reason for finding in turn_findings.values())
    return max(FLOOR, round(worst, 6)), rationale


def find_faults(turn: Turn) -> dict[str, Finding]:
    """The findings of one answer by the name of their check. An empty answer has no other fault."""
    findings: dict[str, Finding] = {}
    for name, check in CHECKS.items():
        finding = check(turn)
        if finding is not None:
            findings[name] = finding
            if not turn.response:
                break
    return findings
