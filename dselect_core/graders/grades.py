"""Dependability of an answer (D3's d3, arXiv 2503.11441): the grades table, whoever grades.

The paper asks "an external LLM"; the scales are ours. `rating`: an LLM's 1–5 as (r - 1)/4, clipped to
[0.05, 1] (openai_grader.py). `reward`: a reward model's value through a sigmoid (reward_grader.py). `probability`: how
probable a judge's yes is (yes_no.py), behind an endpoint or here (local_judge.py). `heuristic`: the builtin checks,
where nobody else is named (heuristic_grader.py). Every record names its grader and scale. A failed grade
is null with its reason.

The limit of an answer's tokens is not part of the provenance: an answer that was given within it is the same under a
higher one, and a row whose answer was cut by a lower one is asked again. How criteria are combined is part of it, but
grades of the same criteria are made of the answers that are there.

The endpoint's address is not part of the provenance, only the model's name: moving a model behind another proxy
must not buy every grade again. Two different models served under one name have to be given two names. A model that runs
here is known by its content.

Several graders of the settings (`graders`) are a kind of score each, `grades@<name>`, in one asset: each has its own
heads, and its own store by its provenance, in which a name has no part.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from dselect_core.errors import DselectError, UnreachableError
from dselect_core.escape import markdown_cell
from dselect_core.fingerprint import fingerprint
from dselect_core.graders import heuristic_grader, local_judge, openai_grader, reward_grader, yes_no
from dselect_core.graders.batch.batch_grader import IN_BATCH, grade_by_batches
from dselect_core.graders.heuristic_processes import grade_in_order
from dselect_core.graders.judge_criteria import combined
from dselect_core.graders.judge_prompt import JudgePrompt, prompt_of
from dselect_core.graders.judge_reply import CUT_AT, Judgement, rating_to_grade
from dselect_core.graders.meter import Meter, open_meter
from dselect_core.graders.spend import Ledger
from dselect_core.kinds import Answers, Column, Emit, FromSamples, Kind
from dselect_core.lm import load, resident
from dselect_core.progress import Progress
from dselect_core.select.judges_spec import GRADE, kind_of_judge
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace

Row = dict[str, Any]
Made = Callable[[list[Row]], None]


def grader_provenance(
    spec: GraderSpec,
    identify: Callable[[str, str | None], str] = lambda path, revision: load.identity(path, revision, load.IDENTITIES),
) -> dict[str, Any]:
    """Everything that can change a grade, and nothing else (not concurrency, timeout, retries, address or device).

    identify: (path or hub name, revision) of a model that runs here → a string that names exactly its weights.
    Raises DselectError when the rubric or the model cannot be read.
    """
    if spec.is_builtin:
        return {"score": "dependability", "scale": "heuristic", "grader": heuristic_grader.NAME}
    prompt = prompt_of(spec)
    if spec.local_model is not None:
        judged = spec.judge is not None
        name = f"judge/{local_judge.VERSION}" if judged else f"reward-model/{reward_grader.VERSION}"
        rubric = {} if prompt is None else {"rubric": prompt.instructions(spec), **_of_sources(prompt, spec)}
        return {
            "score": "dependability",
            "scale": _scale(spec),
            "grader": name,
            "model": identify(spec.local_model, spec.revision),
            "dtype": spec.dtype,
            "max_length": spec.max_length,
            **rubric,
        }
    assert prompt is not None
    return {
        "score": "dependability",
        "scale": spec.scale,
        "grader": f"openai-compatible/{openai_grader.VERSION}",
        "model": spec.model,
        "rubric": prompt.instructions(spec),
        **_of_sources(prompt, spec),
        "temperature": spec.temperature,
        **({"combine": spec.combine} if spec.criteria is not None else {}),
        **({"extra": spec.extra} if spec.extra else {}),
        **({"repeat": spec.turn} if spec.turn > 1 else {}),
    }


def _of_sources(prompt: JudgePrompt, spec: GraderSpec) -> dict[str, Any]:
    """The rubrics of single sources: the settings of one source have none, only its own."""
    rubrics = {source: prompt.instructions(spec.of_source(source)) for source in sorted(spec.rubrics)}
    return {"rubrics": rubrics} if rubrics else {}


def grade(
    samples: pl.DataFrame,
    spec: GraderSpec,
    progress: Progress | None = None,
    emit: Emit | None = None,
    meter: Meter | None = None,
    *,
    keep_model: bool = False,
) -> pl.DataFrame:
    """Grade SAMPLES (columns sample_id and messages are read, tools where they are): GRADES, one row per sample, in
    their order.

    progress(done, total) is called now and then; emit gets the same rows as they are made, each once, in any order.
    meter: counts what an endpoint's calls cost; None: one that holds the caps and writes nothing. keep_model: leave a
    model that grades here in memory, for the next call.
    Raises DselectError when the grader as a whole cannot work (no key, nobody answering, no such model), or where it is
    not known which of several rubrics is meant; a single failure is a null grade with its reason in `error`.
    """
    if spec.rubrics:
        raise DselectError(
            f"{spec.key}.rubrics: which source these rows are of is not known. Grade each source by itself, with "
            "`settings.of_source(name)`, or take `rubrics` out"
        )

    def made(rows: list[Row]) -> None:
        if emit is not None and rows:
            emit(_frame(rows))

    if spec.is_builtin:
        rows = _heuristic(samples, spec, progress, made)
    elif spec.is_local:
        rows = _local(samples, spec, progress, made, keep_model)
    elif spec.mode == "batch":
        raise DselectError(
            f"{spec.key}: `mode: batch` keeps what it asked for in the storage, and here is none: use `mode: live`"
        )
    else:
        rows = _openai(samples, spec, progress, made, meter or Meter(spec))
    return _frame(rows)


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=GRADES.schema())


def _scale(spec: GraderSpec) -> str:
    return yes_no.SCALE if spec.judge is not None else reward_grader.SCALE


def _heuristic(samples: pl.DataFrame, spec: GraderSpec, progress: Progress | None, made: Made) -> list[Row]:
    of_all = {"scale": "heuristic", "grader": heuristic_grader.NAME, "graded_at": datetime.now(UTC)}
    rows: list[Row] = []
    for chunk in grade_in_order(samples["messages"]):
        ids = samples["sample_id"][len(rows) : len(rows) + len(chunk)]
        graded = [
            {"sample_id": sample_id, "grade": value, "rationale": line, "error": failure, **of_all}
            for sample_id, (value, line, failure) in zip(ids, chunk, strict=True)
        ]
        made(graded)
        rows += graded
        if progress is not None:
            progress(len(rows), samples.height)
    return rows


def _openai(samples: pl.DataFrame, spec: GraderSpec, progress: Progress | None, made: Made, meter: Meter) -> list[Row]:
    pairs = list(samples.select("sample_id", "messages").iter_rows())

    def keep(judged: list[tuple[int, Judgement]]) -> None:
        made([_judged(spec, pairs[at][0], judgement) for at, judgement in judged])

    judged = openai_grader.judge(pairs, spec, meter, progress, keep)
    return [_judged(spec, sample_id, j) for (sample_id, _), j in zip(pairs, judged, strict=True)]


def _judged(spec: GraderSpec, sample_id: str, judgement: Judgement) -> Row:
    return {"sample_id": sample_id, "scale": spec.scale, "grader": spec.model, **vars(judgement)}


def _local(
    samples: pl.DataFrame, spec: GraderSpec, progress: Progress | None, made: Made, keep_model: bool
) -> list[Row]:
    """Grades of a model that runs here: in memory while it grades, and the target model is not."""
    if samples.is_empty():
        return []
    rows: dict[str, Row] = {}
    # A folder's place is the user's own; its content is in the provenance.
    path = spec.local_model or ""
    of_all = {"scale": _scale(spec), "grader": Path(path).name if Path(path).expanduser().is_dir() else path}
    grader = reward_grader if spec.reward_model is not None else local_judge
    try:
        with closing(grader.grade(samples, spec)) as batches:
            for batch in batches:
                graded = [row | of_all for row in batch]
                made(graded)
                rows |= {row["sample_id"]: row for row in graded}
                if progress is not None:
                    progress(len(rows), samples.height)
    finally:
        if not keep_model:
            resident.release()
    return [rows[sample_id] for sample_id in samples["sample_id"]]


def _compute(
    judge: str | None, samples: pl.DataFrame, settings: Settings, emit: Emit, progress: Progress | None
) -> None:
    spec = settings.grader_of(judge)
    try:
        if spec.model is None:
            # A worker of a cluster is given one shard after the other.
            grade(samples, spec, progress, emit, keep_model=settings.compute.engine == "ray")
        else:
            _compute_paid(samples, spec, Workspace(settings), emit, progress)
    except DselectError as error:
        if judge is None:
            raise
        raise (UnreachableError if error.again else DselectError)(f"{spec.key}: {error}") from error


def _compute_paid(
    samples: pl.DataFrame, spec: GraderSpec, workspace: Workspace, emit: Emit, progress: Progress | None
) -> None:
    samples = grade_by_batches(
        samples,
        spec,
        question(spec),
        workspace,
        lambda judged: emit(_frame([_judged(spec, sample_id, judgement) for sample_id, judgement in judged])),
        progress,
    )
    if not samples.is_empty():
        with open_meter(spec, Ledger.of(workspace)) as meter:
            grade(samples, spec, progress, emit, meter)


def _description(spec: GraderSpec) -> str:
    if spec.is_builtin:
        by = "the builtin heuristic grader, which is no LLM and says so in every record"
    elif spec.is_local:
        what = "judge" if spec.judge is not None else "reward model"
        by = f"the {what} {markdown_cell(spec.local_model)}, which runs here"
    else:
        by = f"{markdown_cell(spec.model)} behind an OpenAI-compatible endpoint"
    whose = "" if spec.name is None else f"`{spec.name}`: "
    return f"{whose}Correctness, helpfulness and reliability of each response (D3's dependability), by {by}."


# What a provenance says beside what is asked: how criteria are combined; of version 0.2, the limit of an answer too.
_NOT_ASKED = frozenset({"combine", "max_tokens"})


def question(spec: GraderSpec) -> str:
    """Names what an endpoint is asked of each row: a batch under one way to combine criteria is one under another."""
    return fingerprint(_asked(grader_provenance(spec)))


def _asked(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    if not str(provenance.get("grader")).startswith("openai-compatible/"):
        return None
    return {name: value for name, value in provenance.items() if name not in _NOT_ASKED}


def _of_answers(frame: pl.DataFrame, provenance: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a store with the same answers: their criteria combined as this provenance says."""
    lacking = [pl.lit(None, type_).alias(name) for name, type_ in GRADES.schema().items() if name not in frame.columns]
    frame = frame.with_columns(lacking)
    if "combine" not in provenance:
        return frame
    ratings = [
        None if parts is None else combined([part["rating"] for part in parts], provenance["combine"])
        for parts in frame["criteria"].to_list()
    ]
    grades = [None if rating is None else rating_to_grade(rating) for rating in ratings]
    return frame.with_columns(pl.Series("rating", ratings, pl.Float64), pl.Series("grade", grades, pl.Float64))


def _is_overcome(spec: GraderSpec) -> pl.Expr:
    """Whether an answer was cut at a lower limit of tokens than there is now."""
    limit = pl.col("error").str.extract(CUT_AT).cast(pl.Int64, strict=False)
    return limit < spec.max_tokens


def _figures(table: pl.DataFrame) -> dict[str, str | int | float]:
    waiting = int(table["error"].str.starts_with(IN_BATCH).sum())
    return {"rows in batches": waiting} if waiting else {}


_CRITERIA = pl.List(pl.Struct({"criterion": pl.String(), "rating": pl.Float64(), "reason": pl.String()}))

_COLUMNS = (
    Column("grade", pl.Float64(), "dependability of the response, 1 the best", value_range=(0.0, 1.0), rankable=True),
    Column(
        "scale",
        pl.String(),
        "what the grade comes from: `rating` or `probability` of a judge, `reward` of a reward model, or "
        "`heuristic` checks",
    ),
    Column("grader", pl.String(), "name of the model that graded, or of the heuristic grader and its version"),
    Column("rating", pl.Float64(), "what the judge said, 1 to 5; of several criteria, as they are combined"),
    Column("rationale", pl.String(), "the judge's reason, or the checks that found something"),
    Column("criteria", _CRITERIA, "what the judge said of each criterion, 1 to 5, and why"),
    Column("reward", pl.Float64(), "what the reward model gave, before the sigmoid", rankable=True),
    Column("logprob_yes", pl.Float64(), "log-probability that the judge's first token is yes", unit="nats"),
    Column("logprob_no", pl.Float64(), "log-probability that the judge's first token is no", unit="nats"),
    Column("error", pl.String(), "why there is no grade"),
    Column("prompt_tokens", pl.Int64(), "tokens that the grader was given", unit="tokens"),
    Column("completion_tokens", pl.Int64(), "tokens that the judge answered with", unit="tokens"),
    Column("graded_at", pl.Datetime("us", "UTC"), "when the grade was given", unit="UTC"),
)


def _kind(judge: str | None) -> Kind:
    """The kind of score that a judge makes. judge: its name among `graders`; None: `grader`."""

    def spec(settings: Settings) -> GraderSpec:
        # Where what it made is looked at, it may be gone from the settings.
        return settings.all_graders.get(judge, settings.grader)

    return Kind(
        name=kind_of_judge(judge),
        asset="dependability_grades",
        description=lambda settings: _description(spec(settings)),
        columns=_COLUMNS,
        value=GRADE,
        reason_column="error",
        figures=_figures,
        # A grade that failed may succeed tomorrow. Where a model that runs here gave none, it would give none again.
        retry_nulls=lambda settings: not spec(settings).is_local,
        give_up_after=lambda settings: spec(settings).give_up_after,
        of_its_source=frozenset({"rubric"}),
        is_overcome=lambda settings: _is_overcome(spec(settings)),
        answers=Answers(_asked, _of_answers),
        provenance=lambda inputs: grader_provenance(inputs.settings.grader_of(judge), inputs.identify),
        computation=lambda settings: FromSamples(
            partial(_compute, judge), paid=spec(settings).model is not None, runs_model=spec(settings).is_local
        ),
        # The heuristic may well find nothing wrong anywhere; a judge that gives every row one grade is broken.
        may_be_constant=lambda table: set(table["scale"]) == {"heuristic"},
        made_by=_kind if judge is None else None,
        makers=lambda settings: sorted(settings.graders),
        maker=judge,
        joined=judge is not None,
    )


GRADES = _kind(None)
