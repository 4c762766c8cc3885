"""The checks of the builtin grader, in the order in which they are reported.

Each check reads a `Turn` and returns a `Finding` (a factor and a reason) or None. A check knows English and sums,
and never a corpus. Precision comes before recall: a check that cannot be sure is silent. Version 1 also recomputed
sums, units, dates, lists and strings, parsed Python and looked for echoes. Those checks are gone: they flagged none
of 31,098 real samples, and what they found was mostly what the demo corpus plants.
"""

from collections.abc import Callable

from dselect_core.graders.heuristics.cut_off import find_cut
from dselect_core.graders.heuristics.empty_or_refused import find_empty, find_refusal
from dselect_core.graders.heuristics.equations import find_false_equation
from dselect_core.graders.heuristics.off_topic import find_off_topic
from dselect_core.graders.heuristics.repetition import find_repetition
from dselect_core.graders.heuristics.turn import Finding, Turn
from dselect_core.graders.heuristics.wrong_form import find_wrong_form

Check = Callable[[Turn], Finding | None]

CHECKS: dict[str, Check] = {
    "empty": find_empty,
    "refusal": find_refusal,
    "cut off": find_cut,
    "repetition": find_repetition,
    "wrong form": find_wrong_form,
    "off topic": find_off_topic,
    "false equation": find_false_equation,
}
