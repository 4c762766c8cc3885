"""What `grader: {candidates: only}` asks of the recipes: to be certain without the grades of rows that cannot win.

Where one is not, every row has to be graded, and the setting would not be exact.
"""

from collections.abc import Mapping

from dselect_core.select.candidates import bounds_suffice
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.recipe import CoresetSpec
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec

_INSTEAD = "set `grader: {candidates: all}`"


def check_candidates(
    grader: GraderSpec, coresets: Mapping[str, CoresetSpec], near_duplicates: NearDuplicatesSpec | None
) -> None:
    """Raises ValueError naming what needs the grade of every row, or cannot be asked in rounds, and what to do."""
    if grader.name is not None:
        raise ValueError(
            f"{grader.key}.candidates: `only` buys the grades of one grader, and not of those under `graders`: set "
            "`candidates: all`, or have one grader, under `grader`"
        )
    not_in_rounds = {
        "rubrics": bool(grader.rubrics), "mode: batch": grader.mode == "batch", "repeat": grader.repeat is not None
    }  # fmt: skip
    for key, given in not_in_rounds.items():
        if given:
            raise ValueError(
                f"grader.candidates: `only` buys grades over the whole pool in rounds, and not with `{key}`: "
                f"{_INSTEAD}, or take `{key}` out"
            )
    if near_duplicates is not None and GRADES in near_duplicates.kinds:
        raise ValueError(
            "grader.candidates: `only` grades the rows that can still be chosen, and `near_duplicates: {keep: best}` "
            f"compares the grades of all that are alike: {_INSTEAD}, or `near_duplicates: {{keep: first}}`"
        )
    for name, spec in coresets.items():
        if bounds_suffice(spec):
            continue
        why = "its rounds read" if spec.has_rounds else f"`{spec.strategy}` with these options reads"
        raise ValueError(
            "grader.candidates: `only` grades the rows that can still be chosen, and of "
            f"coresets.{name} {why} the grades of all rows: {_INSTEAD}, or choose otherwise (d3 and deita, and "
            "topk:grade without `length_corrected`, can do with fewer)"
        )
