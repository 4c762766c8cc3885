"""The whole job without Dagster, in memory: read rows → score → pool → choose → export.

For a notebook and for one corpus at a time. It trades the store for brevity: nothing is kept between calls, so a second
call computes everything again; the asset graph is what computes only what changed. Each function stands alone, too:
`choose` takes a `Pool` of anybody's vectors and scores.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError
from upath import UPath

from dselect_core.coreset.export import write_coreset
from dselect_core.corpus.ingest import IngestedSource, ingest
from dselect_core.errors import DselectError
from dselect_core.kinds import (
    Column,
    FromForwardPass,
    FromPairs,
    FromSamples,
    FromScores,
    Kind,
    kind_of,
    register,
    with_needs,
)
from dselect_core.lm.load import IDENTITIES, LanguageModel, identity, load
from dselect_core.neighbors.nearest import nearest
from dselect_core.pool.overlap import HELD_OUT, EvalSamples, EvalTexts
from dselect_core.pool.pool_tables import pool_arrays
from dselect_core.progress import Progress
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.scores.update_pairs import with_inputs, with_similarity
from dselect_core.select.candidate_pool import Pool, Targets
from dselect_core.select.candidates import Grade, grade_candidates, unasked
from dselect_core.select.judges_spec import GRADES, JudgesField, JudgesSpec, kind_of_judge
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import Selection, select
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings, SourceSpec

__all__ = [
    "Column",
    "DselectError",
    "Kind",
    "LanguageModel",
    "Pool",
    "Selection",
    "choose",
    "export",
    "hold_out",
    "load_model",
    "make_pool",
    "read_rows",
    "register",
    "score",
]


def read_rows(path: str | Path | SourceSpec, name: str = "rows") -> IngestedSource:
    """Read a file, folder, glob, `s3://` or `hf://` path, or any source that dselect.yaml could name.

    Returns `.samples` (sample_id, messages, n_rows, origins; one row per distinct sample, ascending by id),
    `.quarantine` (the rows that cannot be used, each with its reason) and counts. `name`: the source's name in the
    origins. Raises DselectError naming the file that cannot be read at all.
    """
    return ingest(name, path if isinstance(path, SourceSpec) else SourceSpec(path=str(path)))


def load_model(path: str | Path, **options: Any) -> LanguageModel:
    """Open a Hugging Face causal LM by hub name or folder. options: those under `model:` in dselect.yaml.

    Raises DselectError when it cannot be opened.
    """
    spec = ModelSpec(path=str(path), **options)
    return load(spec.path, spec, identity(spec.path, spec.revision, IDENTITIES))


def score(
    samples: pl.DataFrame,
    kinds: Iterable[str],
    model: LanguageModel | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, pl.DataFrame]:
    """Scores of `kinds` and of the kinds that those need: {kind: a row per sample, ascending by id}.

    samples: as `read_rows` gives them. model: needed by the kinds that it computes, which share one forward pass.
    settings: for other parameters than the defaults (β, the grader, an encoder). Raises DselectError for an unknown
    kind, a missing model, or a kind that cannot be computed as a whole; a single row without a score is null with its
    reason.
    """
    settings = settings or Settings(sources={}, coresets={})
    names = with_needs(kinds)
    computations = {name: kind_of(name).computed_by(settings) for name in names}
    for name in names:
        if model is None and kind_of(name).reads_model(settings):
            raise DselectError(f"`{name}` is computed by a model: give one, as `model=load_model(…)`")
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in names}
    from_pass = frozenset(name for name in names if isinstance(computations[name], FromForwardPass))
    if from_pass and model is not None:
        for batch in forward_scores(model, samples, from_pass, settings, progress):
            for name, frame in batch.items():
                parts[name].append(frame)
    for name, computation in computations.items():
        if isinstance(computation, FromSamples):
            computation.compute(samples, settings, parts[name].append, progress)
    scores = {name: _table(name, frames) for name, frames in parts.items() if frames}
    for name, computation in computations.items():
        if isinstance(computation, FromScores) and model is not None:
            ids = scores[next(iter(computation.inputs.values()))[0]].select("sample_id")
            rows = with_inputs(computation, ids, lambda kind, _: scores[kind])
            scores[name] = _table(name, list(computation.compute(model, samples, rows, progress)))
        if isinstance(computation, FromPairs) and model is not None:
            scores[name] = _pair_scores(name, computation, samples, scores, model, progress)
    return scores


def _table(name: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    return kind_of(name).conforming(pl.concat(frames)).sort("sample_id")


def _pair_scores(
    name: str,
    computation: FromPairs,
    samples: pl.DataFrame,
    scores: Mapping[str, pl.DataFrame],
    model: LanguageModel,
    progress: Progress | None,
) -> pl.DataFrame:
    prompts = scores["prompts"]
    shots = nearest(prompts["sample_id"], _vectors(prompts["prompt_embedding"])[0])
    pairs = with_inputs(computation, shots.select("sample_id", "shot_id"), lambda kind, _: scores[kind])
    return with_similarity(_table(name, list(computation.compute(model, samples, pairs, progress))), shots)


def hold_out(samples: pl.DataFrame, eval_samples: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The samples that are, or share text with, those that a model will be measured on: sample_id, reason, by id.

    eval_samples: {name: samples as `read_rows` gives them}. The rule is that of `role: eval` in dselect.yaml.
    """
    return EvalTexts(EvalSamples(name, frame) for name, frame in eval_samples.items()).reasons(samples)


def make_pool(
    scores: Mapping[str, pl.DataFrame],
    held_out: pl.DataFrame | None = None,
    targets: pl.DataFrame | None = None,
    grade: str | list[str] | dict[str, Any] | None = None,
) -> Pool:
    """What `choose` chooses from: the columns of all kinds that a strategy can read, joined by sample id.

    scores: as `score` gives them. held_out: samples that are never chosen, as `hold_out` gives them. targets: the
    examples for `targeted`, as `score(examples, ["weighted_embeddings"], model)["weighted_embeddings"]`; what the pool
    has of them too is held out. grade: whose grades count, of several judges' (`grades@strict`), as in a recipe. For
    vectors and scores of your own: `Pool.of`.
    """
    table: pl.DataFrame | None = None
    arrays: dict[str, np.ndarray] = {}
    for name, frame in _with_one_grade(scores, grade).items():
        kind = kind_of(name)
        ids = frame.sort("sample_id")
        if kind.pool_field is not None:
            arrays |= pool_arrays(kind.pool_field, *_vectors(ids[kind.value]))
        visible = [column for column in ids.columns if column in kind.pool_columns()]
        columns = ids.select("sample_id", *visible)
        table = columns if table is None else table.join(columns, on="sample_id", how="full", coalesce=True)
    if table is None:
        raise DselectError("no scores: `score` the samples first, or build a pool of your own with `Pool.of`")
    pool = Pool.of(
        table.sort("sample_id"),
        arrays.get("embeddings"),
        arrays.get("neurons"),
        arrays.get("has_neurons"),
        weighted_embeddings=arrays.get("weighted_embeddings"),
    )
    if targets is not None:
        vectors, _ = _vectors(targets["weighted_embedding"])
        pool = replace(pool, targets=Targets.of(targets["sample_id"], vectors))
        own = targets.select("sample_id", reason=pl.lit(f"{HELD_OUT}it is a target example"))
        held_out = own if held_out is None else pl.concat([held_out, own]).unique("sample_id", keep="first")
    if held_out is None:
        return pool
    ids = pool.scores.select("sample_id")
    return replace(pool, held_out=ids.join(held_out, on="sample_id", how="left", maintain_order="left")["reason"])


def _with_one_grade(scores: Mapping[str, pl.DataFrame], grade: Any) -> dict[str, pl.DataFrame]:
    """The scores, with one table of grades in place of those of several judges."""
    of_judges = {name: frame for name, frame in scores.items() if kind_of(name).stored_as == GRADES}
    if grade is None and len(of_judges) < 2:
        return dict(scores)
    told = f"scores have {', '.join(of_judges) or 'no grades'}"
    if grade is None:
        raise DselectError(f"{told}: say whose grades count, as grade={{'of': […], 'by': 'mean'}}")
    try:
        judges: JudgesSpec = TypeAdapter(JudgesField).validate_python(grade)
        tables = [of_judges[kind_of_judge(judge)].sort("sample_id") for judge in judges.of]
    except ValidationError as error:
        raise DselectError(f"grade: {error.errors()[0]['msg']}") from None
    except KeyError as error:
        raise DselectError(f"grade: {told}, and not {error}") from None
    others = {name: frame for name, frame in scores.items() if name not in of_judges}
    return {**others, GRADES: judges.combined(tables)}


def choose(
    pool: Pool,
    strategy: str,
    budget: str | int,
    seed: int = 0,
    progress: Progress | None = None,
    grade: Grade | None = None,
    **options: Any,
) -> Selection:
    """Choose from a pool as a recipe of dselect.yaml would; `.order` has the chosen ids in rank order with their gains.

    strategy: d3, miwv, mads, facility-location, deita, targeted, kcenter, random, topk:<column>. budget: rows (500), a
    share ("10%") or response tokens ("200000 tokens"). options: the other keys of a recipe, such as `quota`, and the
    strategy's own. grade: takes ids (String) and returns their grades (sample_id, grade; null where there is none). It
    is asked, in rounds, for those rows without a grade that can still be chosen (select/candidates.py); the selection
    is that of all grades. Raises DselectError for an unknown strategy or option, a budget or quota that the pool cannot
    meet, or a score that the pool lacks.
    """
    try:
        spec = CoresetSpec.model_validate({"strategy": strategy, "budget": budget, "seed": seed, **options})
    except ValidationError as error:
        messages = (str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        raise DselectError("; ".join(messages)) from None
    if spec.has_rounds:
        raise DselectError("`rounds` and `warmup` tune models, which are kept: give them in a recipe of dselect.yaml")
    if grade is not None:
        *_, last = grade_candidates(unasked(pool), [spec], grade)
        pool = last.pool
    return select(pool, spec, progress)


def _vectors(column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """(values [n, width], present [n]) of an Array column: NaN, or 0 in integers, where it is null."""
    present = column.is_not_null().to_numpy()
    vectors = column.drop_nulls().to_numpy()
    values = np.zeros((len(column), vectors.shape[1] if vectors.ndim == 2 else 0), vectors.dtype)
    if values.dtype.kind == "f":
        values[:] = np.nan
    values[present] = vectors
    return values, present


def export(selection: Selection, samples: pl.DataFrame, folder: str | Path, name: str = "coreset") -> dict[str, int]:
    """Write a selection as files that a trainer loads, and return their counts.

    coreset.jsonl (messages), coreset.parquet, alpaca.json, dataset/ for `datasets.load_dataset`, order.parquet,
    manifest.json. folder: local or `s3://`. Raises DselectError when a chosen sample is not among `samples`.
    """
    return write_coreset(UPath(folder), selection, samples, {"recipe": name})
