"""Dependability of an answer (D3's d3, arXiv 2503.11441): the grades table, whoever grades.

The paper asks "an external LLM"; the scales are ours. `rating`: an LLM's 1–5 as (r - 1)/4, clipped to
[0.05, 1] (openai_grader.py). `heuristic`: the builtin checks, where no endpoint is configured
(heuristic_grader.py). Every record names its grader and scale. A failed grade is null with its reason.

The endpoint's address is not part of the provenance, only the model's name: moving a model behind another proxy
must not buy every grade again. Two different models served under one name have to be given two names.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from dselect_core.escape import markdown_cell
from dselect_core.graders import heuristic_grader, openai_grader
from dselect_core.graders.judge_reply import Judgement, shorten
from dselect_core.kinds import Column, Emit, FromSamples, Kind
from dselect_core.progress import Progress
from dselect_core.settings.settings import GraderSpec, Settings

_REPORT_EVERY = 500


def grader_provenance(spec: GraderSpec) -> dict[str, Any]:
    """Everything that can change a grade, and nothing else (not concurrency, timeout, retries or address).

    Raises DselectError when the rubric cannot be read.
    """
    if spec.is_builtin:
        return {"score": "dependability", "scale": "heuristic", "grader": heuristic_grader.NAME}
    return {
        "score": "dependability",
        "scale": "rating",
        "grader": f"openai-compatible/{openai_grader.VERSION}",
        "model": spec.model,
        "rubric": openai_grader.instructions(spec),
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
    }


def grade(
    samples: pl.DataFrame,
    spec: GraderSpec,
    progress: Progress | None = None,
    emit: Emit | None = None,
) -> pl.DataFrame:
    """Grade SAMPLES (columns sample_id and messages are read): GRADES, one row per sample, in their order.

    progress(done, total) is called now and then; emit gets the same rows as they are made, each once, in any order.
    Raises DselectError when the grader as a whole cannot work (no key, nobody answering); a single failure is a null
    grade with its reason in `error`.
    """
    pairs = list(samples.select("sample_id", "messages").iter_rows())

    def made(rows: list[tuple[Any, ...]]) -> None:
        if emit is not None and rows:
            emit(_frame(rows))

    return _frame(_heuristic(pairs, progress, made) if spec.is_builtin else _openai(pairs, spec, progress, made))


def _frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=GRADES.schema(), orient="row")


Made = Callable[[list[tuple[Any, ...]]], None]


def _heuristic(pairs: list[Any], progress: Progress | None, made: Made) -> list[tuple[Any, ...]]:
    now = datetime.now(UTC)
    rows: list[tuple[Any, ...]] = []
    told = 0
    for done, (sample_id, messages) in enumerate(pairs, start=1):
        value: float | None = None
        line = failure = None
        try:
            value, line = heuristic_grader.grade_messages(messages)
        except Exception as error:  # one strange text must not cost the others their grades
            failure = shorten(f"the checks failed: {type(error).__name__}: {error}")
        rows.append((sample_id, value, "heuristic", heuristic_grader.NAME, None, line, failure, None, None, now))
        if done % _REPORT_EVERY == 0 or done == len(pairs):
            made(rows[told:])
            told = done
            if progress is not None:
                progress(done, len(pairs))
    return rows


def _openai(pairs: list[Any], spec: GraderSpec, progress: Progress | None, made: Made) -> list[tuple[Any, ...]]:
    def row(sample_id: str, j: Judgement) -> tuple[Any, ...]:
        bought = (j.rating, j.rationale, j.error, j.prompt_tokens, j.completion_tokens, j.graded_at)
        return (sample_id, j.grade, "rating", spec.model, *bought)

    judged = openai_grader.judge(pairs, spec, progress, lambda at, j: made([row(pairs[at][0], j)]))
    return [row(sample_id, j) for (sample_id, _), j in zip(pairs, judged, strict=True)]


def _compute(samples: pl.DataFrame, settings: Settings, emit: Emit, progress: Progress | None) -> None:
    grade(samples, settings.grader, progress, emit)


def _description(settings: Settings) -> str:
    by = (
        "the builtin heuristic grader, which is no LLM and says so in every record"
        if settings.grader.is_builtin
        else f"{markdown_cell(settings.grader.model)} behind an OpenAI-compatible endpoint"
    )
    return f"Correctness, helpfulness and reliability of each response (D3's dependability), by {by}."


GRADES = Kind(
    name="grades",
    asset="dependability_grades",
    description=_description,
    columns=(
        Column(
            "grade", pl.Float64(), "dependability of the response, 1 the best", value_range=(0.0, 1.0), rankable=True
        ),
        Column("scale", pl.String(), "what the grade comes from: `rating` of a judge, or `heuristic` checks"),
        Column("grader", pl.String(), "name of the judge's model, or of the heuristic grader and its version"),
        Column("rating", pl.Float64(), "what the judge said, 1 to 5"),
        Column("rationale", pl.String(), "the judge's reason, or the checks that found something"),
        Column("error", pl.String(), "why there is no grade"),
        Column("prompt_tokens", pl.Int64(), "tokens that the judge was sent", unit="tokens"),
        Column("completion_tokens", pl.Int64(), "tokens that the judge answered with", unit="tokens"),
        Column("graded_at", pl.Datetime("us", "UTC"), "when the grade was given", unit="UTC"),
    ),
    value="grade",
    reason_column="error",
    # A grade that failed may succeed tomorrow.
    retry_nulls=True,
    give_up_after=lambda settings: settings.grader.give_up_after,
    provenance=lambda inputs: grader_provenance(inputs.settings.grader),
    computation=lambda settings: FromSamples(_compute, paid=not settings.grader.is_builtin),
    # The heuristic may well find nothing wrong anywhere; a judge that gives every row one grade is broken.
    may_be_constant=lambda table: set(table["scale"]) == {"heuristic"},
)
