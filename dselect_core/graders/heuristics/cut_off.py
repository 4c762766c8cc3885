"""Check for answers that break off. [ours]

It reads signs of a cut at the very end, and misses a cut between two sentences. A missing full stop is such a sign
only where the rest of the answer is punctuated prose, or where the last word cannot end anything: terse answers,
lists, verse, tables and signatures end without one.
"""

import re

from dselect_core.graders.heuristics.common_words import begins_common_word
from dselect_core.graders.heuristics.turn import Finding, Turn, clip

# Words after which English always goes on. Prepositions are not here: "the people he was with" is an end.
_GOES_ON = {
    "the", "a", "an", "and", "or", "because", "than", "its", "their", "my", "your", "our", "whose", "nor", "if",
    "although", "unless",
}  # fmt: skip
_MOSTLY_GOES_ON = {
    "of", "to", "with", "for", "from", "by", "at", "as", "into", "is", "are", "was", "were", "be", "been", "has",
    "will", "would", "could", "should", "which", "that", "who", "where", "when", "while", "but", "so", "every",
    "such", "between", "can", "may", "must", "very", "in", "on", "equals", "his", "also", "until",
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


def find_cut(turn: Turn) -> Finding | None:
    """The answer stops after a comma, an open bracket or a word that cannot end, within a word, or mid-sentence."""
    text = turn.response
    if text.count("```") % 2 and not re.search(r"[.!?:]\s*$", text[text.rindex("```") :]):
        return Finding(0.2, "code fence left open")
    if len(turn.words) < 3 or text.endswith("```") or _EMOTICON.search(text) or _copies_an_end(turn):
        return None
    lines = text.rstrip().splitlines()
    last = lines[-1].strip()
    if _DANGLING.search(text) and not _SIGN_OFF.search(last) and not _verse(lines) and not last.startswith("|"):
        return Finding(0.2, f"breaks off: …{last[-40:]}")
    if text[-1].isalpha() and (finding := _mid_word(turn, last)) is not None:
        return finding
    if text[-1].isalnum() and (finding := _mid_sentence(turn, lines, last)) is not None:
        return finding
    return _left_open(text, lines)


def _copies_an_end(turn: Turn) -> bool:
    """Whether the prompt holds the answer's last words as the end of a line or option: a copy, not a cut."""
    tail = turn.response[-30:]
    at = turn.prompt.find(tail)
    after = turn.prompt[at + len(tail) :].lstrip(" ")[:1] if at >= 0 else "x"
    return after in ("", "\n", ".", ",", ";", "?", "!", '"', ")", "]", "|")


_INFLECTION = re.compile(
    r"(?:s|es|d|ed|ing|ings|er|ers|or|ors|est|ly|y|n|en|al|ally|r|rs|ies|ment|ments|ion|ions|ic|able|ful|less|e|ee|ish|"
    r"ness|ation|ations|ative|ive|ity|t|ty|th|an|ian|ans|ists?|isms?|man|men|i)"
)


def _inflects(word: str, longer: str) -> bool:
    """Whether `longer` is a form of `word`, as `wins` and `winner` are of `win`: then `word` is whole."""
    suffix = longer[len(word) :]
    is_doubled = suffix[:1] == word[-1] and _INFLECTION.fullmatch(suffix[1:])
    return bool(is_doubled or _INFLECTION.fullmatch(suffix))


def _mid_word(turn: Turn, last: str) -> Finding | None:
    """The last word of a sentence is a lone letter, or the beginning of a common word or of an earlier word."""
    words = last.split()
    end = words[-1].strip("\"'“‘(*")
    if (
        len(words) < 3
        or not end.islower()
        or not end.isascii()
        or not re.match(r"[A-Z'\"“*-]", last)
        or end in _COMPLETE
    ):
        return None
    earlier_words = set(re.findall(r"[a-z]+", (turn.context[-4000:] + " " + turn.response[-2000 : -len(end)]).lower()))
    if end in earlier_words:
        return None
    longer = [w for w in earlier_words if w.startswith(end) and not _inflects(end, w)]
    if (len(end) == 1 and words[-2].isalpha()) or longer or (len(end) >= 2 and begins_common_word(end)):
        return Finding(0.2, f"breaks off within a word: …{last[-40:]}")
    return None


# Whole words that begin common ones but are not in the list, and letters that name things.
_COMPLETE = {
    "a", "i", "o", "u", "x", "y", "z", "n", "k", "m", "ad", "ah", "am", "an", "as", "at", "be", "by", "do", "ex",
    "go", "ha", "he", "hi", "id", "if", "in", "is", "it", "la", "ma", "me", "my", "no", "of", "oh", "ok", "on",
    "or", "pa", "pi", "re", "so", "to", "up", "us", "we", "act", "actual", "app", "bar", "base", "bee", "beg",
    "bet", "car", "care", "com", "differ", "eve", "exact", "exam", "fee", "fin", "fur", "gene", "hear", "hell",
    "import", "inform", "info", "instruct", "kin", "late", "lean", "lit", "mad", "man", "mat", "men", "met", "mom",
    "non", "numb", "par", "pass", "past", "per", "plan", "plea", "port", "pot", "potent", "pro", "quest", "quit",
    "ran", "rang", "rat", "relate", "rest", "sent", "ship", "sin", "sing", "sit", "slight", "sob", "son", "spec",
    "star", "step", "sub", "sum", "suppose", "tab", "tall", "tea", "tell", "ten", "thin", "tho", "top", "tow",
    "wan", "war", "wit", "won", "wonder",
}  # fmt: skip


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
    """Prose that ends all sentences but the last, or a lone sentence without its end where the request has one."""
    if _lone_sentence_without_end(turn, lines):
        return Finding(0.5, f"a sentence without its end: …{last[-40:]}")
    if len(turn.words) < 15 or _LIST_OR_TABLE.match(last) or "```" in turn.response or _verse(lines):
        return None
    ended = len(_SENTENCE_END.findall(turn.response))
    follows_sentence = _SENTENCE_END.search(last) is not None  # in the same line
    loose = _SENTENCE_END.split(last)[-1].split()
    if not follows_sentence or ended < 2 or len(loose) < 2 or _SIGN_OFF.search(last):
        return None
    if re.search(r"https?://\S*$|@\w+$|#\w+$|\b\w+\.\w{2,4}$", last) or all(w[:1].isupper() for w in loose):
        return None  # links, tags, names under a text
    return Finding(0.4, f"last sentence does not end: …{last[-40:]}")


_FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|will|would|could|should|do|does|did|must|may|means?|takes?|gives?|makes?)\b"
)


# Posts, reviews and captions are written as their authors would, often without a full stop.
_OWN_VOICE = re.compile(
    r"\b(?:generate|construct|compose|create|review|post|tweet|caption|headline|title|slogan|tagline|message|chat|"
    r"dialogue)\b",
    re.IGNORECASE,
)


def _lone_sentence_without_end(turn: Turn, lines: list[str]) -> bool:
    text, prompt = turn.response, turn.question
    return (
        len(lines) == 1
        and len(turn.words) >= 5
        and text[0].isupper()
        and _FINITE.search(text) is not None
        and prompt.count("\n") <= 2
        and re.search(r"[a-z][.?!][\"”]?$", prompt) is not None
        and text[:30].lower() not in prompt.lower()
        and not re.search(r"[:#@]", text)
        and not _OWN_VOICE.search(prompt)
    )


def _verse(lines: list[str]) -> bool:
    """Short lines most of which end openly: a poem, a list of phrases, an address."""
    full = [line for line in lines if line.strip()]
    if any(re.match(r"\s*\d{1,3}[.)]\s", line) for line in full):
        return False
    return len(full) >= 3 and sum(len(line) < 70 for line in full) >= 0.7 * len(full)


def _left_open(text: str, lines: list[str]) -> Finding | None:
    """A bracket or quotation opened in the last line and never closed, where the text does not end like a sentence."""
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
