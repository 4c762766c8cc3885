"""Estimates for a plan: the tokens of rows that were not tokenised yet, and those of a grade that is not made yet.

The questions to a judge whose tokenizer is known are counted by it. All else follows from what the same model or judge
counted before, by characters, a judge also under another rubric; from stated constants where it never counted.
"""

from collections.abc import Callable, Iterator

import polars as pl

from dselect_core.graders.judge_prompt import prompt_of
from dselect_core.graders.prompt_tokens import counter_of, prompt_tokens
from dselect_core.scores.same_answers import stores_of_kind
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.workspace import Workspace
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


def grader_tokens(
    rows: pl.DataFrame,
    characters: pl.DataFrame,
    workspace: Workspace,
    grades: Store,
    texts: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    judge: str | None = None,
) -> tuple[int, int]:
    """(prompt, completion) tokens that a judge or a reward model will take for `rows` (sample_id).

    judge: its name among the settings' `graders`; None: the only one.
    texts: SAMPLES of such rows, for a judge whose tokenizer is known: its prompts are counted by it. All else is from
    what earlier grades of the same provenance took; else from what grades of the same judge took under another rubric;
    else from the texts' length, and the limit of an answer. A model that runs here writes none.
    """
    spec = workspace.settings.grader_of(judge)
    count = None if texts is None or rows.is_empty() else counter_of(spec)
    by_tokenizer = None if count is None or texts is None else prompt_tokens(texts(rows), spec, count)
    prompt = prompt_of(spec)
    rubric_characters = 0 if prompt is None else len(prompt.instructions(spec))
    prompt_characters = int(rows.join(characters, on="sample_id")["characters"].sum()) + rubric_characters * rows.height
    bought, bought_rubric = _bought(grades, characters), rubric_characters
    for other in _same_judge(workspace, spec) if bought.is_empty() else ():
        bought, bought_rubric = _bought(other, characters), len(str(other.provenance.get("rubric", "")))
        if bought.height:
            break
    if bought.is_empty():
        completion_limit = 0 if spec.is_local else spec.max_tokens
        return by_tokenizer or int(prompt_characters / CHARACTERS_PER_TOKEN), rows.height * completion_limit
    bought_characters = int(bought.join(characters, on="sample_id")["characters"].sum())
    bought_characters += bought_rubric * bought.height
    tokens_per_character = int(bought["prompt_tokens"].sum()) / max(1, bought_characters)
    completion = int(bought["completion_tokens"].sum()) / bought.height
    return by_tokenizer or int(prompt_characters * tokens_per_character), int(rows.height * completion)


def _same_judge(workspace: Workspace, spec: GraderSpec) -> Iterator[Store]:
    """The stores of grades by the same judge behind an endpoint, under whatever rubric."""
    for store, provenance in stores_of_kind(workspace, "grades") if spec.model is not None else ():
        if provenance.get("model") == spec.model and str(provenance.get("grader")).startswith("openai-compatible/"):
            yield store


def _bought(grades: Store, characters: pl.DataFrame) -> pl.DataFrame:
    """sample_id and what its grade took, of the samples that have one."""
    bought = grades.read(characters, _BOUGHT)
    return bought.drop_nulls() if bought.height else bought
