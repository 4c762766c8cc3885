"""Checks of the answer against the request: echoed, of another kind than asked, or about something else.

Lexical relation is asked only where it can be expected: short answers, stories, translations and code rightly
share no word with the question. Which requests expect it was settled by measuring, on real corpora, how often
the true answer and how often another row's answer shares nothing. [ours]
"""

import re

from dselect_core.scores.heuristics.common_words import common_words, singular
from dselect_core.scores.heuristics.numerals import WORDS, mentions_quantity, numbers_in
from dselect_core.scores.heuristics.request import QUOTED
from dselect_core.scores.heuristics.turn import Finding, Turn, clip


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def echo(turn: Turn) -> Finding | None:
    """The answer is the request again, or the request with a few words added."""
    if len(turn.words) < 5 or len(turn.response) > 3 * len(turn.prompt) + 40:
        return None
    # Compared from the start on, so that the long prompt of a short answer is never read.
    prompt, response = _plain(turn.prompt[: 4 * len(turn.response) + 100]), _plain(turn.response)
    if not prompt or re.search(r"\brepeat|\bsay\b|\bcopy\b|\becho\b|after me", turn.prompt[:200], re.IGNORECASE):
        return None
    if response == prompt or (response.startswith(prompt) and len(response) < 1.15 * len(prompt)):
        return Finding(0.1, "repeats the request instead of answering it")
    return None


_HOW_MANY = re.compile(r"\bhow (?:many|much (?:is|does|money)|old)\b", re.IGNORECASE)
_CODE_ASKED = re.compile(
    r"\b(?:write|create|implement|generate|develop|build|code|give me|provide|design)\b[^.?\n]{0,40}?\b"
    r"(?:(?:python|java|javascript|c\+\+|c#|ruby|php|perl|swift|rust|go|bash|shell|sql|r|html|css)\s+"
    r"(?:function|code|script|program|class|query|method|snippet|one-liner)|(?:function|program|script) (?:that|which|to)\b|"
    r"regex|regular expression|sql query|html page)\b",
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
    r"^(?:please\s+)?(?:list|name|give(?: me)?|suggest|provide|generate|write|identify|come up with|brainstorm|create|describe|"
    r"state|tell me|what are)\s+(?:at least\s+|up to\s+|the\s+|a list of\s+)?"
    rf"(?P<n>\d{{1,2}}|{'|'.join(WORDS)})\s+(?!(?:to|or|-)\b)"
    rf"(?:(?!(?:{_NOT_ITEMS})\b)[\w'-]+\s+){{0,3}}?(?P<what>(?!(?:{_NOT_ITEMS})\b)[a-z'-]{{3,}}s)\b",
    re.IGNORECASE,
)


def other_kind(turn: Turn) -> Finding | None:
    """A number, code or a list of n is asked, and the answer holds nothing of the kind."""
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


_WORD = re.compile(r"[^\W\d_]{3,}")
_NUMERAL = re.compile(r"\d+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_SHOWS_WORK = re.compile(r"\d\s*[-+*×/÷]\s*\d[^\n]{0,40}=\s*\d|=\s*\d[^\n]{0,40}=\s*\d")
_STEM = 5
_FREE_FORM = re.compile(
    r"\b(?:poem|story|haiku|song|lyrics?|joke|limerick|translate|translation|riddle|metaphor|simile|rhyme|sonnet|dialogue|"
    r"conversation|role|pretend|imagine|scene|character|continue|complete|random|sentence|paragraph|tweet|caption|slogan|"
    r"headline|title|tagline|quote|pun|fiction|creative|script|essay|sample|example|fictional|narrative|tale|verse|rap|letter|"
    r"email|speech|monologue|prompt|describe a time)s?\b",
    re.IGNORECASE,
)
_POLITE = r"(?:\W*(?:please|can you|could you|hi|hello|tell me|briefly|in your own words|in one sentence|q:|question:)[,\s]+)*"
_EXPLAINS = re.compile(
    _POLITE
    + r"(?:how|explain|what|why|compare|contrast|summari[sz]e|describe|outline|analy[sz]e|discuss|define|who|when|where|"
    r"which|is|are|does|do|identify)\b",
    re.IGNORECASE,
)
# Questions whose short answer, when it is a sentence, names the subject again …
_NAMES_SUBJECT = re.compile(
    _POLITE
    + r"(?:(?:what|who|where|when|which)\b[^?]{0,40}?\b(?:is|are|was|were)\b|how (?:do|does|did|is|are)\b|define\b|explain\b)",
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
    r"\b(?:rewrite|rephrase|paraphrase|reword|proofread|edit|correct|fix|shorten|simplify|summari[sz]e|turn|change|convert|make|"
    r"improve|expand|negate|combine|join|put)\b[^:\n]{0,80}\b(?:sentences?|text|paragraph|passage|phrase|formal|polite|passive|"
    r"active|grammar|tense|voice|following|statement|concise)\b",
    re.IGNORECASE,
)
# Requests whose answer brings its own subject even when they hold something to work on.
_OPEN_ENDED = re.compile(
    r"\b(?:generate|create|write|compose|design|build|suggest|list|name|give|come up|make up|invent|develop|plan|plot|review|"
    r"puzzle|mnemonic|brainstorm|recommend|provide|propose|produce|construct|describe|think of|predict|rhym\w*|synonym\w*|"
    r"antonym\w*|opposite|similar|related|idiom|alternative\w*|words? (?:for|that|which|with)|how do you say|translat\w*|"
    r"phrase that|initials|acronym|encode|encrypt|decode|cipher|code|may|might|narrator)\b",
    re.IGNORECASE,
)
_ASKS_ABOUT_SELF = re.compile(r"\byou(?:r|rself)?\b", re.IGNORECASE)
_DAY = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|\b(?:am|pm|noon|midnight)\b", re.IGNORECASE)
# Results spelled out letter by letter, or set off from the words around them, share no word with anything.
_SPELLS = re.compile(
    r"[:\"'`“]|\b(?:letters?|vowels?|consonants?|alphabet\w*|spell\w*|characters?|revers\w*|sorted)\b", re.IGNORECASE
)


def stems(text: str) -> set[str]:
    """Content words of `text`, each by its first letters: a stemmer for a yes-or-no question."""
    return {word[:_STEM] for word in {singular(w) for w in _WORD.findall(text.lower())} - common_words()}


def unrelated(turn: Turn) -> Finding | None:
    """Not one content word or number shared with anything said before, where such a request would have it so."""
    if len(turn.words) < 4:
        return None
    explains, rewrites = _EXPLAINS.match(turn.prompt), turn.question and _REWRITES.search(turn.prompt[:200])
    given = _given(turn.question)
    if not (explains or rewrites or given or turn.number) or _foreign(turn.response):
        return None
    response = turn.response[:3000]
    words, numbers = stems(response), _numerals(response)
    if rewrites and len(words) >= 3 and "translat" not in turn.prompt.lower():
        factor = 0.4
    elif _FREE_FORM.search(turn.prompt[:1000]):
        return None
    elif explains and len(words) >= 8 and "`" not in turn.context and not _ASKS_ABOUT_SELF.search(turn.prompt[:300]):
        factor = 0.3
    elif given == "numbers" and len(words) >= 2 and not numbers_in(response) and not _DAY.search(response):
        factor = 0.4
    elif given and len(numbers) >= 4 and _SHOWS_WORK.search(response):
        factor = 0.4  # a calculation, with none of the numbers of the request
    elif (given == "text" and (len(words) >= 3 or len(numbers) >= 3) and not _SPELLS.search(response)) or (explains and len(words) >= 2 and _names_subject(turn)):
        factor = 0.4
    elif turn.number and len(words) >= 2 and len(turn.prompt.split()) >= 3 and not _ASKS_ABOUT_SELF.search(turn.prompt):
        if _SPELLS.search(response):
            return None
        factor = 0.4  # a conversation that has found its subject
    else:
        return None
    context = turn.context if len(turn.context) <= 8000 else turn.context[:4000] + "\n" + turn.context[-4000:]
    asked = stems(context)
    if len(asked) < (2 if factor == 0.3 else 1) or asked & words or numbers & _numerals(context):
        return None
    return Finding(factor, f"shares no content word with the request ({clip(turn.prompt, 40)!r})")


def _numerals(text: str) -> set[str]:
    return set(_NUMERAL.findall(_THOUSANDS.sub("", text)))


def _given(question: str) -> str | None:
    """What the request holds to be worked on: `numbers`, `text` (quoted, or an input under the instruction), or None."""
    if not question or _OPEN_ENDED.search(question):
        return None
    if len(set(_NUMERAL.findall(question))) >= 2:
        return "numbers"
    _, gap, given = question.partition("\n\n")
    return "text" if (QUOTED.search(question) and len(question) < 200) or (gap and len(stems(given)) >= 3) else None


def _names_subject(turn: Turn) -> bool:
    return (
        bool(turn.question)
        and len(turn.words) >= 5
        and _NAMES_SUBJECT.match(turn.question) is not None
        and not _PERSONAL.search(turn.question)
        and _FULL_SENTENCE.fullmatch(turn.response) is not None
    )


def _foreign(text: str) -> bool:
    """Another script than Latin, where words cannot be compared like this."""
    return not text.isascii() and sum(c > "\u024f" for c in text) > len(text) // 10
