"""Estimates for a plan: tokens of rows that were not tokenised yet, tokens of a judge that was not asked yet.

From what the same model or judge counted before, by characters; from stated constants where it never counted.
"""

import polars as pl

from dselect_core.graders import openai_grader
from dselect_core.settings.settings import GraderSpec
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
    counted = None if difficulty is None else difficulty.read(characters, _COUNTED)
    if counted is None or counted.is_empty():
        return characters.select("sample_id", tokens=pl.col("characters") / CHARACTERS_PER_TOKEN)
    counted = counted.select("sample_id", counted=pl.sum_horizontal(_COUNTED))
    both = characters.join(counted, on="sample_id", how="left")
    known = both.drop_nulls("counted")
    ratio = int(known["counted"].sum()) / max(1, int(known["characters"].sum()))
    return both.select("sample_id", tokens=pl.col("counted").cast(pl.Float64).fill_null(pl.col("characters") * ratio))


def judge_tokens(rows: pl.DataFrame, characters: pl.DataFrame, spec: GraderSpec, grades: Store) -> tuple[int, int]:
    """(prompt, completion) tokens to be bought for `rows` (sample_id).

    From what earlier grades of this recipe took; else from the texts' length, and the limit of an answer.
    """
    told = len(openai_grader.instructions(spec))
    text = int(rows.join(characters, on="sample_id")["characters"].sum()) + told * rows.height
    past = grades.read(characters, _BOUGHT)
    past = past.drop_nulls() if past.height else past
    if past.is_empty():
        return int(text / CHARACTERS_PER_TOKEN), rows.height * spec.max_tokens
    seen = int(past.join(characters, on="sample_id")["characters"].sum()) + told * past.height
    completion = int(past["completion_tokens"].sum()) / past.height
    return int(text * int(past["prompt_tokens"].sum()) / max(1, seen)), int(rows.height * completion)
