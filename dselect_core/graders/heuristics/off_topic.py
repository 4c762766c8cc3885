"""Check for answers about something else than the request. [ours]

An answer is off topic when it shares no content word and no number with anything said before it. This is asked only
where a shared word can be expected: short answers, stories, translations and code rightly share none. So the check
is precise on English prose and blind elsewhere. Which requests expect a shared word was settled by measuring, on
real corpora, how often the true answer and how often the answer of another row shares nothing.
"""

import re

from dselect_core.graders.heuristics.common_words import common_words, singular
from dselect_core.graders.heuristics.numerals import has_number
from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_WORD = re.compile(r"[^\W\d_]{3,}")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|`([^`]+)`|(?<!\w)'([^'\n]+)'(?!\w)|‘([^’]+)’")
_NUMERAL = re.compile(r"\d+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_SHOWS_WORK = re.compile(r"\d\s*[-+*×/÷]\s*\d[^\n]{0,40}=\s*\d|=\s*\d[^\n]{0,40}=\s*\d")
_STEM = 5
_FREE_FORM = re.compile(
    r"\b(?:poem|story|haiku|song|lyrics?|joke|limerick|translate|translation|riddle|metaphor|simile|rhyme|sonnet|"
    r"dialogue|conversation|role|pretend|imagine|scene|character|continue|complete|random|sentence|paragraph|tweet|"
    r"caption|slogan|headline|title|tagline|quote|pun|fiction|creative|script|essay|sample|example|fictional|narrative|"
    r"tale|verse|rap|letter|email|speech|monologue|prompt|describe a time)s?\b",
    re.IGNORECASE,
)
_POLITE = (
    r"(?:\W*(?:please|can you|could you|hi|hello|tell me|briefly|in your own words|in one sentence|q:|question:)"
    r"[,\s]+)*"
)
_EXPLAINS = re.compile(
    _POLITE
    + r"(?:how|explain|what|why|compare|contrast|summari[sz]e|describe|outline|analy[sz]e|discuss|define|who|when|"
    r"where|which|is|are|does|do|identify)\b",
    re.IGNORECASE,
)
# Questions whose short answer, when it is a sentence, names the subject again …
_NAMES_SUBJECT = re.compile(
    _POLITE
    + r"(?:(?:what|who|where|when|which)\b[^?]{0,40}?\b(?:is|are|was|were)\b|how (?:do|does|did|is|are)\b|define\b|"
    r"explain\b)",
    re.IGNORECASE,
)
_PERSONAL = re.compile(
    r"[\d\n\"'“‘]|\b(?:you|your|i|my|me|we|our|may|might|will|would|probably|narrator|he|she|they|this|question)\b",
    re.IGNORECASE,
)
# … unless it only refers to it: "It was founded in 1901."
_FULL_SENTENCE = re.compile(
    r"(?!(?:It|He|She|They|This|That|These|Those|There|Because|Yes|No)\b)[A-Z].*[.!]$", re.DOTALL
)
_REWRITES = re.compile(
    r"\b(?:rewrite|rephrase|paraphrase|reword|proofread|edit|correct|fix|shorten|simplify|summari[sz]e|turn|change|"
    r"convert|make|improve|expand|negate|combine|join|put)\b[^:\n]{0,80}\b(?:sentences?|text|paragraph|passage|phrase|"
    r"formal|polite|passive|active|grammar|tense|voice|following|statement|concise)\b",
    re.IGNORECASE,
)
# Requests whose answer brings its own subject even when they hold something to work on.
_OPEN_ENDED = re.compile(
    r"\b(?:generate|create|write|compose|design|build|suggest|list|name|give|come up|make up|invent|develop|plan|plot|"
    r"review|puzzle|mnemonic|brainstorm|recommend|provide|propose|produce|construct|describe|think of|predict|rhym\w*|"
    r"synonym\w*|antonym\w*|opposite|similar|related|idiom|alternative\w*|words? (?:for|that|which|with)|"
    r"how do you say|translat\w*|phrase that|initials|acronym|encode|encrypt|decode|cipher|code|may|might|narrator)\b",
    re.IGNORECASE,
)
_ASKS_ABOUT_SELF = re.compile(r"\byou(?:r|rself)?\b", re.IGNORECASE)
_DAY = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|\b(?:am|pm|noon|midnight)\b", re.IGNORECASE)
# Results spelled out letter by letter, or set off from the words around them, share no word with anything.
_SPELLS = re.compile(
    r"[:\"'`“]|\b(?:letters?|vowels?|consonants?|alphabet\w*|spell\w*|characters?|revers\w*|sorted)\b", re.IGNORECASE
)
_LONG = 8
# Words that even a short answer may share with any request.
_FUNCTION_WORDS = {
    "that", "this", "with", "have", "from", "they", "will", "would", "there", "their", "what", "which", "when", "where",
    "been", "were", "your", "them", "then", "than", "some", "into", "only", "very", "just", "also", "more", "most",
    "such", "each", "does", "many", "much", "make", "give", "take",
}  # fmt: skip


def find_off_topic(turn: Turn) -> Finding | None:
    """No content word and no number is shared with earlier text, though such a request lets one expect it."""
    if len(turn.words) < 4 or _foreign(turn.response):
        return None
    relation = _expects_relation(turn)
    if not relation:
        return None
    response = turn.response[:3000]
    all_words = _words(response)
    words, numbers = _stems(all_words), _numerals(response)
    # Encoded text, names alone and other languages hold no common English word, and cannot be compared.
    if not _is_judged(relation, turn, len(words), len(numbers)) or not all_words & common_words():
        return None
    context = turn.context if len(turn.context) <= 8000 else turn.context[:4000] + "\n" + turn.context[-4000:]
    context_words = stems(context)
    if len(context_words) < (2 if len(words) >= _LONG else 1) or context_words & words or numbers & _numerals(context):
        return None
    if len(words) < _LONG and {w for w in all_words & _words(turn.prompt) if len(w) >= 4} - _FUNCTION_WORDS:
        return None
    factor = 0.3 if relation == "explains" and len(words) >= _LONG else 0.4
    return Finding(factor, f"shares no content word with the request ({clip(turn.prompt, 40)!r})")


def _expects_relation(turn: Turn) -> str | None:
    """Why the answer should share a word with earlier text; None where it need not.

    `rewrites` a given text, works on given `numbers` or `text`, `explains` a subject, or goes on in a `conversation`.
    """
    if turn.question and _REWRITES.search(turn.prompt[:200]) and "translat" not in turn.prompt.lower():
        return "rewrites"
    if _FREE_FORM.search(turn.prompt[:1000]):
        return None
    if given := _given(turn.question):
        return given
    if _EXPLAINS.match(turn.prompt):
        return "explains"
    follows = turn.answers_before > 0 and len(turn.prompt.split()) >= 3 and not _ASKS_ABOUT_SELF.search(turn.prompt)
    return "conversation" if follows else None


def _given(question: str) -> str | None:
    """What the request holds to be worked on: `numbers`, `text` (quoted, or below the instruction), or None."""
    if not question or _OPEN_ENDED.search(question):
        return None
    if len(set(_NUMERAL.findall(question))) >= 2:
        return "numbers"
    _, gap, given = question.partition("\n\n")
    return "text" if (_QUOTED.search(question) and len(question) < 200) or (gap and len(stems(given)) >= 3) else None


def _is_judged(relation: str, turn: Turn, words: int, numbers: int) -> bool:
    """Whether an answer with so many content words and numbers would be related, were it right."""
    response = turn.response[:3000]
    if relation == "rewrites":
        return words >= 3
    explains = _EXPLAINS.match(turn.prompt) is not None
    if explains and words >= _LONG and "`" not in turn.context and not _ASKS_ABOUT_SELF.search(turn.prompt[:300]):
        return True
    if relation in ("numbers", "text") and numbers >= 4 and _SHOWS_WORK.search(response):
        return True  # a calculation, with none of the numbers of the request
    if relation == "numbers":
        return words >= 2 and not has_number(response) and not _DAY.search(response)
    if _SPELLS.search(response) or _DAY.search(response):
        return False
    if relation == "text":
        return words >= 3 or numbers >= 3
    return words >= 2 and (relation == "conversation" or _names_subject(turn))


def _names_subject(turn: Turn) -> bool:
    return (
        bool(turn.question)
        and len(turn.words) >= 5
        and _NAMES_SUBJECT.match(turn.question) is not None
        and not _PERSONAL.search(turn.question)
        and _FULL_SENTENCE.fullmatch(turn.response) is not None
    )


def _words(text: str) -> set[str]:
    return {singular(word) for word in _WORD.findall(text.lower())}


def stems(text: str) -> set[str]:
    """Content words of `text`, each by its first letters: a stemmer for a yes-or-no question."""
    return _stems(_words(text))


def _stems(words: set[str]) -> set[str]:
    return {word[:_STEM] for word in words - common_words()}


def _numerals(text: str) -> set[str]:
    return set(_NUMERAL.findall(_THOUSANDS.sub("", text)))


def _foreign(text: str) -> bool:
    """Another script than Latin, where words cannot be compared like this."""
    return not text.isascii() and sum(c > "\u024f" for c in text[:3000]) > len(text[:3000]) // 10
