"""Check of the answer's form: no number, code or list of n where one was asked.

Which form is asked is read from short requests only: a passage may hold a question of its own. [ours]
"""

import re

from dselect_core.graders.heuristics.numerals import WORDS, mentions_quantity
from dselect_core.graders.heuristics.turn import Finding, Turn

_HOW_MANY = re.compile(r"\bhow (?:many|much (?:is|does|money)|old)\b", re.IGNORECASE)
_CODE_ASKED = re.compile(
    r"\b(?:write|create|implement|generate|develop|build|code|give me|provide|design)\b[^.?\n]{0,40}?\b(?:(?:python|"
    r"java|javascript|c\+\+|c#|ruby|php|perl|swift|rust|go|bash|shell|sql|r|html|css)\s+(?:function|code|script|"
    r"program|class|query|method|snippet|one-liner)|(?:function|program|script) (?:that|which|to)\b|regex|"
    r"regular expression|sql query|html page)\b",
    re.IGNORECASE,
)
_CODE_SIGNS = re.compile(
    r"```|`[^`]+`|[(){}\[\]=;<>\\^$]|\bselect\b|\bdef\b|\breturn\b|^\s{2,}\S", re.IGNORECASE | re.MULTILINE
)
# Nouns that a list of n does not count one item each for.
_NOT_ITEMS = (
    "words?|sentences?|lines?|paragraphs?|pages?|syllables?|letters?|minutes?|steps?|characters?|digits?|years?|verses?|"
    "stanzas?|bullets?|items?|hundred|thousand|percent"
)
_LIST_ASKED = re.compile(
    r"^(?:please\s+)?(?:list|name|give(?: me)?|suggest|provide|generate|write|identify|come up with|brainstorm|create|"
    r"describe|state|tell me|what are)\s+(?:at least\s+|up to\s+|the\s+|a list of\s+)?"
    rf"(?P<n>\d{{1,2}}|{'|'.join(WORDS)})\s+(?!(?:to|or|-)\b)"
    rf"(?:(?!(?:{_NOT_ITEMS})\b)[\w'-]+\s+){{0,3}}?(?P<what>(?!(?:{_NOT_ITEMS})\b)[a-z'-]{{3,}}s)\b",
    re.IGNORECASE,
)


def wrong_form(turn: Turn) -> Finding | None:
    """A number, code or a list of n is asked, and the answer has none."""
    prompt = turn.question
    if not prompt:
        return None
    if _HOW_MANY.search(prompt) and _is_only_question(prompt) and not mentions_quantity(turn.response):
        return Finding(0.3, "asks how many, no quantity in the answer")
    if _CODE_ASKED.search(prompt) and not _CODE_SIGNS.search(turn.response):
        return Finding(0.3, "asks for code, none in the answer")
    listed = _LIST_ASKED.match(prompt)
    if listed is not None:
        n = int(listed["n"]) if listed["n"].isdigit() else WORDS[listed["n"].lower()]
        found = _item_count(turn.response)
        if 2 <= n <= 30 and found < n:
            return Finding(0.5, f"asks for {n} {listed['what']}, at most {found} in the answer")
    return None


def _is_only_question(prompt: str) -> bool:
    """One question at the end: no options, no passage with a question of its own."""
    return prompt.count("?") == 1 and prompt.endswith("?") and "\n" not in prompt and len(prompt) < 200


def _item_count(response: str) -> int:
    """The most items any reading of the answer as a list gives: lines, commas, sentences, numbered marks."""
    text = response.rstrip(" .,;\n")
    lines = sum(1 for line in text.splitlines() if line.strip())
    inline = len(re.findall(r"[,;/&]|\band\b|\bor\b|、|，", text)) + 1
    sentences = len(re.findall(r"[.!?:]\s", text)) + 1
    return max(lines, inline, sentences)
