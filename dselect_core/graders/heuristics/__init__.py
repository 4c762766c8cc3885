"""The checks of the builtin grader, in the order they are reported. docs/heuristic-grader.md has their figures.

empty_or_refused.py   vacuous, refusal
cut_off.py            cut_off
repetition.py         repetitive
wrong_form.py         wrong_form
off_topic.py          off_topic
equations.py          false_equation

turn.py, numerals.py, expression.py and common_words.py read the text for them.

Each check reads a `Turn` and returns a `Finding` (a factor and a reason) or None. They know language and sums, never a
corpus. Precision comes before recall: a check that cannot be sure is silent. A check stays here only if it finds
something in real rows, as they are or damaged on purpose (benchmarks/heuristic_grader.py).
"""

from collections.abc import Callable

from dselect_core.graders.heuristics.cut_off import cut_off
from dselect_core.graders.heuristics.empty_or_refused import refusal, vacuous
from dselect_core.graders.heuristics.equations import false_equation
from dselect_core.graders.heuristics.off_topic import off_topic
from dselect_core.graders.heuristics.repetition import repetitive
from dselect_core.graders.heuristics.turn import Finding, Turn
from dselect_core.graders.heuristics.wrong_form import wrong_form

Check = Callable[[Turn], Finding | None]

CHECKS: tuple[Check, ...] = (vacuous, refusal, cut_off, repetitive, wrong_form, off_topic, false_equation)
