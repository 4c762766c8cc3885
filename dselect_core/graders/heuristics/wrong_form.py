"""Check for answers without code where code is asked. [ours]

The form is read from short requests only, because a passage may hold a request of its own. A script or a program
without a named language may be a play or a plan, so it is not taken for code.
"""

import re

from dselect_core.graders.heuristics.turn import Finding, Turn

_CODE_ASKED = re.compile(
    r"\b(?:write|create|implement|generate|develop|build|code|give me|provide|design)\b[^.?\n]{0,40}?\b(?:(?:python|"
    r"java|javascript|c\+\+|c#|ruby|php|perl|swift|rust|go|bash|shell|sql|r|html|css)\s+(?:function|code|script|"
    r"program|class|query|method|snippet|one-liner)|function (?:that|which|to)\b|regex|"
    r"regular expression|sql query|html page)\b",
    re.IGNORECASE,
)
_CODE_SIGNS = re.compile(
    r"```|`[^`]+`|[(){}\[\]=;<>\\^$]|\bselect\b|\bdef\b|\breturn\b|^\s{2,}\S", re.IGNORECASE | re.MULTILINE
)


def find_wrong_form(turn: Turn) -> Finding | None:
    """A short request asks for code and the answer holds no sign of any."""
    if _CODE_ASKED.search(turn.question) and not _CODE_SIGNS.search(turn.response):
        return Finding(0.3, "asks for code, none in the answer")
    return None
