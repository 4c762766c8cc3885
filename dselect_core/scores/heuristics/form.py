"""Checks of an answer's form alone: nothing said, refused, broken off, looping, code that does not parse.

A terse answer is a good answer here: `Yes` and `Paris` pass all of these. Ending without a full stop is a
sign of a cut only where the rest of the answer is punctuated prose, or the last word cannot end anything. [ours]
"""

import ast
import re
import textwrap
import warnings
from collections import Counter

from dselect_core.scores.heuristics.turn import Finding, Turn, clip

_PLACEHOLDERS = {
    "n/a", "na", "nan", "null", "undefined", "tbd", "todo", "lorem ipsum", "placeholder", "no output", "nooutput", "noinput",
    "no answer", "no response", "empty", "blank", "answer", "your answer here", "insert answer here", "output", "response",
    "sure", "okay", "ok", "of course", "certainly", "here you go", "here it is", "as requested", "done", "error", "test", "asdf",
    "blah", "idk", "xxx", "please see above", "see above",
}  # fmt: skip
_FILLER_ONLY = re.compile(r"[\s.…\-–—_*#`\"'“”,:;|~/\\()\[\]{}<>?!=]*")
_LEAD_IN_ONLY = re.compile(
    r"(?:(?:sure|okay|ok|certainly|of course|absolutely|great question)[,.! ]+)?(?:here(?:'s| is| are)|below (?:is|are))\b[^.\n]{0,80}:",
    re.IGNORECASE,
)
_WORD_CHARS = re.compile(r"[^\w/ ]+")


def vacuous(turn: Turn) -> Finding | None:
    """No words at all, a placeholder, or an announcement of an answer without the answer."""
    text = turn.response
    if len(text) > 120:
        return None
    if not text:
        return Finding(0.05, "empty answer")
    if _FILLER_ONLY.fullmatch(text):
        # "Which sign ends a question?" can be answered "?".
        return (
            None if len(text) <= 2 and len(set(text) - set(".…-–—_ ")) > 0 else Finding(0.05, "no words in the answer")
        )
    plain = " ".join(_WORD_CHARS.sub(" ", text.lower()).split())
    if plain in _PLACEHOLDERS and not re.search(rf"\b{re.escape(plain)}\b", turn.context, re.IGNORECASE):
        return Finding(0.05, f"a placeholder, not an answer: {clip(text)}")
    return Finding(0.1, "announces an answer and gives none") if _LEAD_IN_ONLY.fullmatch(text) else None


_REFUSAL = re.compile(
    r"(?:i(?:'|’)?m (?:very |really |so |truly )?sorry|i am (?:very )?sorry|sorry|i apologi[sz]e|unfortunately)?[,.;:]?\s*(?:but\s+)?"
    r"(?:as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.]{0,60}?,?\s*)?"
    r"i(?:'|’)?\s?(?:a?m)?\s*(?:cannot|can(?:'|’)t|can not|am unable to|'m unable to|unable to|am not able to|not able to|do not have (?:the )?(?:ability|access|"
    r"enough)|don(?:'|’)t have (?:the )?(?:ability|access|enough)|won(?:'|’)t be able to|do(?: not|n(?:'|’)t) know\b(?: the answer)?|have no idea)",
    re.IGNORECASE,
)
# A refusal that is the right answer.
_WITH_GOOD_REASON = re.compile(
    r"\b(?:harm\w*|danger\w*|illegal\w*|unethical|unsafe|emergency|suicid\w*|inappropriate|hate\w*|violen\w*|privacy|offensive)\b",
    re.IGNORECASE,
)
_STORY = re.compile(
    r"\b(?:poem|story|song|lyrics|dialogue|letter|email|act as|pretend|role|write|sentence|translate|rewrite|complete)\b",
    re.IGNORECASE,
)


def refusal(turn: Turn) -> Finding | None:
    """A short answer that opens by declining (`I'm sorry, but I cannot …`, `I don't know`)."""
    head = turn.response[:200].lstrip("\"'* ")
    if head[:1] not in "iIsSuUaAbB" or len(turn.words) > 60:
        return None
    if not _REFUSAL.match(head) or _STORY.search(turn.prompt[:300]) or _WITH_GOOD_REASON.search(turn.response):
        return None
    return Finding(0.5, f"declines to answer: {clip(turn.response)}")


# Words after which English always goes on. Prepositions are not here: "the people he was with" is an end.
_GOES_ON = {
    "the",
    "a",
    "an",
    "and",
    "or",
    "because",
    "than",
    "its",
    "their",
    "my",
    "your",
    "our",
    "whose",
    "nor",
    "if",
    "although",
    "unless",
}
_MOSTLY_GOES_ON = {
    "of", "to", "with", "for", "from", "by", "at", "as", "into", "is", "are", "was", "were", "be", "been", "has", "will",
    "would", "could", "should", "which", "that", "who", "where", "when", "while", "but", "so", "every", "such", "between", "can", "may",
    "must", "very", "in", "on", "equals", "his", "also", "until",
}  # fmt: skip
_ENDS = re.compile(r"[.!?…。！？」』”’\"'»)\]}>*_|`~:;%°$€£/\\^=+✓。।؟]$|[^\x00-\u024f]$")
_SENTENCE_END = re.compile(r"[a-z0-9)\"”’'][.!?][\"”’')]?(?=\s+[A-Z\"“(])")
_LIST_OR_TABLE = re.compile(r"^\s*(?:[-*•+|>#]|\d{1,3}[.):]|[A-Za-z][.)]\s|[A-Z][\w /&'-]{0,40}:|https?://|\[\d)")
_SIGN_OFF = re.compile(
    r"\b(?:sincerely|regards|love|cheers|yours|best|thanks|thank you|wishes|truly|faithfully|respectfully)\b",
    re.IGNORECASE,
)
_DANGLING = re.compile(r"(?:[\w)]\s*,|\s[-–—(\[{]|\w[(\[{]|[\w)]\s+[+*=×÷]|&|(?<!-)\b\w+-)$")
_EMOTICON = re.compile(r"[:;=8][-'’]?[(\[{|/\\]$")


def cut_off(turn: Turn) -> Finding | None:
    """Breaks off: after a comma or an open bracket, after a word that cannot end a sentence, or mid-sentence in prose."""
    text = turn.response
    if text.count("```") % 2 and not re.search(r"[.!?:]\s*$", text[text.rindex("```") :]):
        return Finding(0.2, "code fence left open")
    if len(turn.words) < 3 or text.endswith("```") or _EMOTICON.search(text) or _copies_an_end(turn):
        return None
    lines = text.rstrip().splitlines()
    last = lines[-1].strip()
    if _DANGLING.search(text) and not _SIGN_OFF.search(last) and not _verse(lines) and not last.startswith("|"):
        return Finding(0.2, f"breaks off: …{last[-40:]}")
    if text[-1].isalnum() and (finding := _mid_sentence(turn, lines, last)) is not None:
        return finding
    return _left_open(text, lines)


def _copies_an_end(turn: Turn) -> bool:
    """Whether the prompt holds the answer's last words as the end of a line or option: a copy, not a cut."""
    tail = turn.response[-30:]
    at = turn.prompt.find(tail)
    after = turn.prompt[at + len(tail) :].lstrip(" ")[:1] if at >= 0 else "x"
    return after in ("", "\n", ".", ",", ";", "?", "!", '"', ")", "]", "|")


def _mid_sentence(turn: Turn, lines: list[str], last: str) -> Finding | None:
    words = last.split()
    tail = words[-1].lower()
    asks_for_words = re.search(
        r"\b(?:word|article|preposition|conjunction|pronoun|blank|spell|topics|keyword|concepts|complete|ends? with)",
        turn.prompt[-400:],
        re.IGNORECASE,
    )
    if words[-1].islower() and not asks_for_words and not _verse(lines):
        if tail in _GOES_ON and len(words) >= 3:
            return Finding(0.2, f"breaks off: …{last[-40:]}")
        if tail in _MOSTLY_GOES_ON and len(words) >= 5 and last[0].isupper():
            return Finding(0.2, f"breaks off: …{last[-40:]}")
    return _unpunctuated_end(turn, lines, last, words)


def _unpunctuated_end(turn: Turn, lines: list[str], last: str, words: list[str]) -> Finding | None:
    """Prose that ends its sentences, except the last."""
    if len(turn.words) < 15 or _LIST_OR_TABLE.match(last) or "```" in turn.response or _verse(lines):
        return None
    ended = len(_SENTENCE_END.findall(turn.response))
    inside = (
        _SENTENCE_END.search(last) is not None
    )  # the last line itself holds a finished sentence before the loose end
    loose = _SENTENCE_END.split(last)[-1].split()
    if not inside or ended < 2 or len(loose) < 2 or _SIGN_OFF.search(last):
        return None
    if re.search(r"https?://\S*$|@\w+$|#\w+$|\b\w+\.\w{2,4}$", last) or all(w[:1].isupper() for w in loose):
        return None  # links, tags, names under a text
    return Finding(0.4, f"last sentence does not end: …{last[-40:]}")


def _verse(lines: list[str]) -> bool:
    """Short lines most of which end openly: a poem, a list of phrases, an address."""
    full = [line for line in lines if line.strip()]
    if any(re.match(r"\s*\d{1,3}[.)]\s", line) for line in full):
        return False
    return len(full) >= 3 and sum(len(line) < 70 for line in full) >= 0.7 * len(full)


def _left_open(text: str, lines: list[str]) -> Finding | None:
    """A bracket or quotation mark opened in the last line and never closed, where the text does not end like a sentence."""
    last = lines[-1]
    if _ENDS.search(text) and not text.endswith((":", ";", "=")):
        return None
    opened = last.rfind("(")
    if opened > last.rfind(")") and not re.search(r"[:;=]['-]?$", last[max(0, opened - 3) : opened]):
        return Finding(0.3, f"bracket left open: …{clip(last[opened:])}")
    quotes = re.findall(r"(?<![\d'])\"", last)
    if len(quotes) % 2 and len(lines) == 1 and text.count('"') % 2:
        return Finding(0.3, f"quotation left open: …{clip(last[last.rfind(chr(34)) :])}")
    return None


_SAME_WORD_RUN = re.compile(r"\b(\w{2,})(?:[\s,.]+\1\b){4,}", re.IGNORECASE)
_REPEAT_WANTED = re.compile(
    r"\b(?:repeat|times|song|lyrics|poem|chorus|pattern|verse|haiku|rap|chant|loop)\b", re.IGNORECASE
)


def repetitive(turn: Turn) -> Finding | None:
    """The same word five times running, the same sentence or line over and over, or few distinct four-word runs."""
    words = turn.words
    if len(words) < 8 or _REPEAT_WANTED.search(turn.prompt[:500]):
        return None
    run = _SAME_WORD_RUN.search(turn.prose[:20000])
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


_PYTHON_FENCE = re.compile(r"```[ \t]*(?:python3?|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_BARE_PYTHON = re.compile(r"(?:def|class) \w+.*:[ \t]*(?:#.*)?\n|(?:import \w|from \w+ import )", re.ASCII)
_NOT_PLAIN_PYTHON = re.compile(
    r"^\s*(?:>>>|\.\.\.|[%!$]|In \[)|^\s*print\s+[^(\s=]|^\s*exec\s|except \w+, \w+|\braise \w+, |`|<[a-z_ ]+>|^\s*\.\.\.",
    re.MULTILINE,
)


def broken_code(turn: Turn) -> Finding | None:
    """Python (fenced as such, or an answer that is a bare function where Python was asked) that Python cannot parse."""
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
