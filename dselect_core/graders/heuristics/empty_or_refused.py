"""Checks for answers that say nothing: empty, a placeholder, an announcement, a refusal. [ours]

A terse answer is a good answer: `Yes`, `Paris`, and `?` where a sign is asked all pass. Special tokens are no words,
so an answer of `<|endoftext|>` alone is empty. A refusal is judged by its words only: a right one (no access to live
data) is flagged too, and costs half the grade and not all of it.
"""

import re

from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_PLACEHOLDERS = {
    "n/a", "na", "nan", "null", "undefined", "tbd", "todo", "lorem ipsum", "placeholder", "no output", "nooutput",
    "noinput", "no answer", "no response", "empty", "blank", "answer", "your answer here", "insert answer here",
    "output", "response", "sure", "okay", "ok", "of course", "certainly", "here you go", "here it is", "as requested",
    "done", "error", "test", "asdf", "blah", "idk", "xxx", "please see above", "see above",
}  # fmt: skip
_FILLER_ONLY = re.compile(r"[\s.…\-–—_*#`\"'“”,:;|~/\\()\[\]{}<>?!=]*")
# "Which sign ends a question?" can be answered "?".
_SIGN_ASKED = re.compile(
    r"\b(?:signs?|marks?|symbols?|operators?|characters?|punctuation|emoji|emoticon|blank|prints?|output)\b",
    re.IGNORECASE,
)
_LEAD_IN_ONLY = re.compile(
    r"(?:(?:sure|okay|ok|certainly|of course|absolutely|great question)[,.! ]+)?"
    r"(?:here(?:'s| is| are)|below (?:is|are))\b[^.\n]{0,80}:",
    re.IGNORECASE,
)
_WORD_CHARS = re.compile(r"[^\w/ ]+")


def find_empty(turn: Turn) -> Finding | None:
    """No words at all, a placeholder, or an announcement of an answer without one."""
    text = turn.response
    if len(text) > 120:
        return None
    if not text:
        return Finding(0.05, "empty answer")
    if _FILLER_ONLY.fullmatch(text):
        is_quoted = any(f"{quote}{text}{quote}" in turn.prompt for quote in "'\"`")
        is_sign = len(text) <= 2 and (is_quoted or _SIGN_ASKED.search(turn.prompt))
        return None if is_sign else Finding(0.05, "no words in the answer")
    plain = " ".join(_WORD_CHARS.sub(" ", text.lower()).split())
    if plain in _PLACEHOLDERS and not re.search(rf"\b{re.escape(plain)}\b", turn.context, re.IGNORECASE):
        return Finding(0.05, f"a placeholder, not an answer: {clip(text)}")
    return Finding(0.1, "announces an answer and gives none") if _LEAD_IN_ONLY.fullmatch(text) else None


_NOT = r"(?:cannot|can(?:'|’)?t|can not|am unable to|'m unable to|unable to|am not able to|not able to)"
_LACKS = r"(?:do not|don(?:'|’)t) have (?:the )?(?:ability|access|enough)"
_KNOWS_NOT = r"(?:do not|don(?:'|’)t) know\b|have no idea|won(?:'|’)t be able to"
_REFUSAL = re.compile(
    r"(?:i(?:'|’)?m (?:very |really |so |truly )?sorry|i am (?:very )?sorry|sorry|i apologi[sz]e|"
    r"unfortunately)?[,.;:]?\s*(?:but\s+)?(?:as an? (?:ai|artificial intelligence|"
    r"(?:large )?language model)\b[^.]{0,60}?,?\s*)?"
    rf"(?:i|we)(?:'|’)?\s?(?:a?m)?\s*(?:{_NOT}|{_LACKS}|{_KNOWS_NOT})",
    re.IGNORECASE,
)
_NO_IDEA = re.compile(
    r"(?:sorry,? )?(?:but )?(?:i(?:'|’)m not sure|i am not sure|i (?:do not|don(?:'|’)t) know|i have no idea)\W*",
    re.IGNORECASE,
)
# A refusal that is the right answer.
_WITH_GOOD_REASON = re.compile(
    r"\b(?:harm\w*|danger\w*|illegal\w*|unethical|unsafe|emergency|suicid\w*|inappropriate|hate\w*|violen\w*|privacy|"
    r"offensive)\b",
    re.IGNORECASE,
)
# `I cannot taste it myself, but I can summarise the reviews` goes on to help.
_HELPS = re.compile(r"\bbut (?:i|we) (?:can|could)\b(?!(?:'|’)t|not)", re.IGNORECASE)
_STORY = re.compile(
    r"\b(?:poem|story|song|lyrics|dialogue|letter|email|act as|pretend|role|write|sentence|translate|rewrite|"
    r"complete)\b",
    re.IGNORECASE,
)


def find_refusal(turn: Turn) -> Finding | None:
    """A short answer that opens by declining (`I'm sorry, but I cannot …`, `I don't know`)."""
    head = turn.response[:200].lstrip("\"'* ")
    if head[:1] not in tuple("iIsSuUaAbBwW") or len(turn.words) > 60 or _STORY.search(turn.prompt[:300]):
        return None
    if _NO_IDEA.fullmatch(turn.response):
        return Finding(0.3, "says only that it does not know")
    if not _REFUSAL.match(head) or _WITH_GOOD_REASON.search(turn.response) or _HELPS.search(turn.response):
        return None
    return Finding(0.5, f"declines to answer: {clip(turn.response)}")
