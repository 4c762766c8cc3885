"""Estimates for a plan: the tokens of rows that were not tokenised yet, and those of a grade that is not made yet.

Both follow from what the same model or judge counted before, by characters; from stated constants where it never
counted.
"""

import polars as pl

from dselect_core.graders.judge_prompt import PROBABILITY, RATING
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.storage.score_store import Store

SHOTS = 0.54
"""Samples that are somebody's shot, as a share (measured on 9,229 Alpaca rows)."""

CHARACTERS_PER_TOKEN = 4.0
"""Where nothing was ever tokenised by this model."""

_COUNTED = ["prompt_tokens", "response_tokens"]
_BOUGHT = ["prompt_tokens", "completion_tokens"]


def lengths(characters: pl.DataFrame, difficulty: Store | None) -> pl.DataFrame:
    """sample_id, tokens: counted where the sample was tokenised before, else estimated from its characters.

    characters: sample_id, characters. difficulty: the store that counts them; None where the model is not known yet.
    """
    counts = None if difficulty is None else difficulty.read(characters, _COUNTED)
    if counts is None or counts.is_empty():
        return characters.select("sample_id", tokens=pl.col("characters") / CHARACTERS_PER_TOKEN)
    counts = counts.select("sample_id", counted=pl.sum_horizontal(_COUNTED))
    samples = characters.join(counts, on="sample_id", how="left")
    tokenised = samples.drop_nulls("counted")
    ratio = int(tokenised["counted"].sum()) / max(1, int(tokenised["characters"].sum()))
    estimate = pl.col("counted").cast(pl.Float64).fill_null(pl.col("characters") * ratio)
    return samples.select("sample_id", tokens=estimate)


def grader_tokens(rows: pl.DataFrame, characters: pl.DataFrame, spec: GraderSpec, grades: Store) -> tuple[int, int]:
    """(prompt, completion) tokens that a judge or a reward model will take for `rows` (sample_id).

    From what earlier grades of the same provenance took; else from the texts' length, and the limit of an answer. A
    model that runs here writes none.
    """
    prompt = PROBABILITY if spec.judge is not None else None if spec.is_local else RATING
    rubric_characters = 0 if prompt is None else len(prompt.instructions(spec))
    prompt_characters = int(rows.join(characters, on="sample_id")["characters"].sum()) + rubric_characters * rows.height
    bought = grades.read(characters, _BOUGHT)
    bought = bought.drop_nulls() if bought.height else bought
    if bought.is_empty():
        completion_limit = 0 if spec.is_local else spec.max_tokens
        return int(prompt_characters / CHARACTERS_PER_TOKEN), rows.height * completion_limit
    bought_characters = int(bought.join(characters, on="sample_id")["characters"].sum())
    bought_characters += rubric_characters * bought.height
    tokens_per_character = int(bought["prompt_tokens"].sum()) / max(1, bought_characters)
    completion = int(bought["completion_tokens"].sum()) / bought.height
    return int(prompt_characters * tokens_per_character), int(rows.height * completion)
