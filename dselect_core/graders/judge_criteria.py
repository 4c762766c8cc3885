"""Several criteria, each rated 1 to 5 with a short reason, and one grade of them: their mean, or the lowest [ours].

The parts are kept beside the grade. A reply counts only where it rates every criterion: a grade of some would be
another grade.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dselect_core.graders.judge_reply import (
    Read,
    check_rating,
    final_object,
    rating_to_grade,
    reason_of,
    repeated_keys,
    shorten,
)
from dselect_core.settings.grader_spec import GraderSpec

_REASON_WIDTH = 200


def reader(spec: GraderSpec) -> Read:
    """Reads a reply with the criteria of the settings, and combines them."""
    return partial(_read, names=tuple(spec.criteria or ()), combine=spec.combine)


def combined(ratings: Sequence[float], combine: str) -> float:
    """One rating of those of the criteria. combine: `mean` or `min`."""
    return min(ratings) if combine == "min" else sum(ratings) / len(ratings)


def _read(text: str, choice: dict[str, Any], *, cut: bool, names: tuple[str, ...], combine: str) -> dict[str, Any]:
    """The columns of a judgement. Raises ValueError, which says why, where not every criterion has a rating."""
    answer, ratings = final_object(text, names, partial(_ratings, names=names), cut=cut)
    criteria = [
        {"criterion": name, "rating": rating, "reason": _reason(answer[name])}
        for name, rating in zip(names, ratings, strict=True)
    ]
    rating = combined(ratings, combine)
    reasons = "; ".join(f"{each['criterion']}: {each['reason']}" for each in criteria if each["reason"])
    rationale = shorten(reasons, 500) if reasons else None
    return {"grade": rating_to_grade(rating), "rating": rating, "rationale": rationale, "criteria": criteria}


def _ratings(answer: dict[str, Any], names: tuple[str, ...]) -> tuple[float, ...]:
    if missing := [name for name in names if name not in answer]:
        raise ValueError(f"no rating of {', '.join(missing)} in the reply")
    parts = [answer[name] for name in names]
    for part in parts:
        if repeated := repeated_keys(part):
            raise ValueError(f"the reply gives {', '.join(map(shorten, repeated))} twice")
    return tuple(check_rating(part.get("rating") if isinstance(part, dict) else part) for part in parts)


def _reason(part: Any) -> str | None:
    return reason_of(part, _REASON_WIDTH) if isinstance(part, dict) else None
