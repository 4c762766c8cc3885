"""The checks of the builtin grader, in the order they are reported.

said.py         vacuous, refusal
endings.py      cut_off
repetition.py   repetitive
python_code.py  broken_code
kind.py         echo, other_kind
relation.py     unrelated
equations.py    false_equation
computed.py     wrong_value, wrong_yes_no
units.py        false_conversion, wrong_conversion
dates.py        wrong_date
lists.py        wrong_list
strings.py      wrong_string

turn.py, request.py, numerals.py, expression.py and common_words.py read the text for them.

Each check reads a `Turn` and returns a `Finding` (a factor and a reason) or None. They know languages,
sums and calendars, never a corpus. Precision comes before recall: a check that cannot be sure is silent.
"""

from collections.abc import Callable

from dselect_core.graders.heuristics import broken_code as python_code
from dselect_core.graders.heuristics import cut_off as endings
from dselect_core.graders.heuristics import empty_or_refused as said
from dselect_core.graders.heuristics import equations, repetition
from dselect_core.graders.heuristics import off_topic as relation
from dselect_core.graders.heuristics import wrong_form as kind
from dselect_core.graders.heuristics.turn import Finding, Turn
from dselect_core.scores.heuristics import computed, dates, lists, strings, units

Check = Callable[[Turn], Finding | None]

CHECKS: tuple[Check, ...] = (
    said.vacuous,
    said.refusal,
    endings.cut_off,
    repetition.repetitive,
    python_code.broken_code,
    kind.echo,
    kind.other_kind,
    relation.unrelated,
    equations.false_equation,
    computed.wrong_value,
    computed.wrong_yes_no,
    units.false_conversion,
    units.wrong_conversion,
    dates.wrong_date,
    lists.wrong_list,
    strings.wrong_string,
)
