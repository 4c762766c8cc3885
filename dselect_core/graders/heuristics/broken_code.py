"""Check for Python in the answer that does not parse. It is parsed, never run. [ours]"""

import ast
import re
import textwrap
import warnings

from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_PYTHON_FENCE = re.compile(r"```[ \t]*(?:python3?|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_BARE_PYTHON = re.compile(r"(?:def|class) \w+.*:[ \t]*(?:#.*)?\n|(?:import \w|from \w+ import )", re.ASCII)
_NOT_PLAIN_PYTHON = re.compile(
    r"^\s*(?:>>>|\.\.\.|[%!$]|In \[)|^\s*print\s+[^(\s=]|^\s*exec\s|except \w+, \w+|\braise \w+, |`|<[a-z_ ]+>",
    re.MULTILINE,
)


def broken_code(turn: Turn) -> Finding | None:
    """Python that Python cannot parse: fenced as such, or a whole answer of code where Python was asked."""
    blocks = _PYTHON_FENCE.findall(turn.response) if "```" in turn.response else []
    if (
        not blocks
        and _BARE_PYTHON.match(turn.response)
        and "python" in turn.prompt.lower()
        and _all_code(turn.response)
    ):
        blocks = [turn.response]
    for block in blocks:
        # Python 2, shell magics, console sessions and templates are not judged.
        if _NOT_PLAIN_PYTHON.search(block) or len(block) > 20000:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(textwrap.dedent(block))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return Finding(0.3, f"Python code does not parse: {clip(str(error))}")
    return None


def _all_code(text: str) -> bool:
    """No line of running text among the code."""
    return not any(re.match(r"[A-Z][a-z]+(?: [\w,']+){4,}[.:]?$", line) for line in text.splitlines())
