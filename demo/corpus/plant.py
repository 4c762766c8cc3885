"""Planted defects: a reworded prompt, a cut answer, an empty answer.

Each edit imitates what real instruction data shows. A rewording keeps the task and its data (text in quotes
and after a colon is left alone), so the old answer stays right.
"""

import re
from random import Random

BLANK = ("", " ", "\n", "  \n\n", "\t")
"""No answer at all: a loader must put these rows aside."""

VACUOUS = (
    "...", "N/A", "I don't know.", "-", "None", "I'm not sure.", "TODO", "No answer.", "?",
    "Sorry, I cannot help with that.",
)  # fmt: skip
"""Answers that say nothing, and still pass a check for blank ones."""

_IMPERATIVES = [
    "Add", "Apply", "Arrange", "Build", "Calculate", "Change", "Combine", "Compare", "Compute", "Convert", "Correct",
    "Count", "Decide", "Describe", "Divide", "Encode", "Evaluate", "Explain", "Express", "Find", "Fix", "Format",
    "Give", "Implement", "Join", "Keep", "List", "Make", "Multiply", "Name", "Negate", "Predict", "Put", "Raise",
    "Reduce", "Remove", "Replace", "Return", "Reverse", "Rewrite", "Round", "Run", "Scale", "Shift", "Show", "Simplify",
    "Solve", "Sort", "Spell", "Split", "Subtract", "Sum", "Summarise", "Take", "Tell", "Trace", "Turn", "Write",
]  # fmt: skip
_QUESTIONS = ["What", "Which", "How", "Is", "Are", "Does", "Who", "On", "Of", "If", "For", "In", "Can"]
_SYNONYMS = {
    "What is ": "What's ", "Which is ": "What is ", "How many ": "Exactly how many ", "Compute ": "Calculate ",
    "Calculate ": "Compute ", "Find ": "Determine ", "Evaluate ": "Work out ", "Solve ": "Please solve ",
    "Convert ": "Change ", "Write ": "Write down ", "Rewrite ": "Rephrase ", "Turn ": "Transform ", "Make ": "Create ",
    "Give ": "State ", "Name ": "Give ", "Tell me ": "Let me know ", "Count ": "Count up ", "Sort ": "Order ",
    "Arrange ": "Order ", "Remove ": "Delete ", "Fix ": "Repair ", "Correct ": "Fix ",
}  # fmt: skip
_GREETINGS = ("Hi! ", "Hello, ", "Quick question: ", "Hey there. ", "One more: ", "Good day. ")
_THANKS = (" Thanks!", " Thank you.", " Please be quick.", " Thanks in advance.", " Much appreciated!")


def reword(rng: Random, prompt: str) -> str:
    """The same request with another greeting, politeness, verb, sign or punctuation; never equal to `prompt`."""
    kinds = (_politely, _synonym, _signs, _punctuation, _lower_start, _greeting, _thanks)
    edits = [edit for edit in kinds if edit(rng, prompt)]
    text = prompt
    for edit in rng.sample(edits, min(len(edits), rng.randint(1, 2))):
        text = edit(rng, text) or text
    return text if text != prompt else _GREETINGS[0] + prompt


def cut(rng: Random, answer: str) -> str | None:
    """The answer stopped in a word or a sentence, at 30% to 80% of its length; None when it is too short to tell."""
    if len(answer) < 40:
        return None
    places = [
        i
        for i in range(int(len(answer) * 0.3), int(len(answer) * 0.8))
        # Never right after a digit: a cut number would read as a wrong one.
        if (answer[i - 1].isalpha() and (answer[i].isalpha() or answer[i] == " ")) or answer[i - 1] in "=×+("
    ]
    return answer[: rng.choice(places)].rstrip() if places else None


def _starts(prompt: str, words: list[str]) -> bool:
    return prompt.split(maxsplit=1)[0] in words


def _lower(prompt: str) -> str:
    return prompt[0].lower() + prompt[1:]


def _politely(rng: Random, prompt: str) -> str | None:
    if not _starts(prompt, _IMPERATIVES) or "lease" in prompt:
        return None
    # Only a plain one-sentence command can become a question; a prompt with data in it keeps its end.
    if re.fullmatch(r"[^.:\n'\"]+\.", prompt) and rng.random() < 0.5:
        return f"Could you {_lower(prompt[:-1])}?"
    return f"Please {_lower(prompt)}"


def _synonym(rng: Random, prompt: str) -> str | None:
    start = next((s for s in _SYNONYMS if prompt.startswith(s)), None)
    return None if start is None else _SYNONYMS[start] + prompt[len(start) :]


def _signs(rng: Random, prompt: str) -> str | None:
    other = prompt.replace(" × ", rng.choice([" x ", " * "])).replace(" ÷ ", " / ")
    return other if other != prompt else None


def _punctuation(rng: Random, prompt: str) -> str | None:
    if "\n" in prompt or ":" in prompt or "'" in prompt or prompt[-1] not in ".?":
        return None
    return prompt[:-1] + rng.choice(["", " ?", "??"] if prompt[-1] == "?" else ["", "!"])


def _lower_start(rng: Random, prompt: str) -> str | None:
    return _lower(prompt) if _starts(prompt, _IMPERATIVES + _QUESTIONS) else None


def _greeting(rng: Random, prompt: str) -> str | None:
    return None if _starts(prompt, ["Hi!", "Hello.", "Good", "Hey,"]) else rng.choice(_GREETINGS) + prompt


def _thanks(rng: Random, prompt: str) -> str | None:
    # After data (a list, a text to edit) thanks would become part of it.
    return prompt + rng.choice(_THANKS) if prompt[-1] in ".?" and ":" not in prompt and "\n" not in prompt else None
