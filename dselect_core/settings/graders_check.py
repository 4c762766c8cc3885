"""Which of the settings' graders each recipe reads: checked, and said for those that leave it to the settings.

A recipe says nothing where there is one grader, named or not. Where several are named it must say which: a grader that
is added, to be compared, then moves no coreset that stands, and buys nothing for it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from dselect_core.select.judges_spec import JudgesSpec
from dselect_core.select.recipe import CoresetSpec
from dselect_core.settings.grader_spec import GraderSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class _Reader(Protocol):
    """A recipe, or `near_duplicates`."""

    @property
    def grade(self) -> JudgesSpec | None: ...
    @property
    def reads_grades(self) -> bool: ...


def check_grader_names(graders: Mapping[str, object]) -> None:
    """Raises ValueError for a name that cannot name a folder."""
    for name in graders:
        if not _NAME.fullmatch(name):
            raise ValueError(f"graders: {name!r} is no name: use at most 40 letters, digits, - _ and .")


def judges_of(place: str, reader: _Reader, graders: Mapping[str, object]) -> JudgesSpec | None:
    """Whose grades it reads; None: those of `grader`, or none at all.

    place: its key in dselect.yaml. Raises ValueError where it names a grader that is not there, or none of several.
    """
    if reader.grade is not None:
        for name in reader.grade.of:
            if name not in graders:
                known = ", ".join(graders) or "none; name some under `graders`"
                raise ValueError(f"{place}.grade: no grader `{name}`. There are: {known}")
        return reader.grade
    if not graders or not reader.reads_grades:
        return None
    names = list(graders)
    if len(names) > 1:
        raise ValueError(
            f"{place}: it reads grades, and several graders are named. Say whose: `grade: {names[0]}`, or "
            f"`grade: {{of: [{', '.join(names)}], by: mean}}` (mean, median or min)"
        )
    return JudgesSpec(of=(names[0],))


def check_rewards(coresets: Mapping[str, CoresetSpec], graders: Mapping[str | None, GraderSpec]) -> None:
    """Raises ValueError where a recipe ranks by rewards, and the grader that it reads is no reward model.

    graders: by name; None: the only one.
    """
    for recipe, spec in coresets.items():
        if spec.strategy != "topk:reward":
            continue
        grader = graders[None if spec.grade is None else spec.grade.of[0]]
        if grader.reward_model is None:
            raise ValueError(
                f"coresets.{recipe}.strategy: `topk:reward` ranks by what a reward model gives, and none is named. "
                f"Add `{grader.key}: {{reward_model: …}}`, or rank by `topk:grade`"
            )


def check_rubrics(graders: Iterable[GraderSpec], sources: Collection[str]) -> None:
    """Raises ValueError where a grader has a rubric for a source that is not there."""
    for grader in graders:
        if unknown := sorted(set(grader.rubrics) - set(sources)):
            known = ", ".join(sorted(sources)) or "none"
            raise ValueError(f"{grader.key}.rubrics: there is no source `{unknown[0]}`; there are: {known}")
