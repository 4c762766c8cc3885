"""Both passes in one give what they give one after the other, from fewer tokens; what has no shot says why."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.score_together import score_together
from dselect_core.lm.load import LanguageModel
from dselect_core.scores import miwv
from dselect_core.scores.forward_scores import forward_kinds
from dselect_core.settings.settings import Settings
from tests.tiny import conversation, open_llama, samples_frame, save_llama, score

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
KINDS = forward_kinds(SETTINGS)
CONVERSATIONS = [
    *(conversation(f"What is {i} + {i}?", f"{2 * i}, for it is {i} twice.") for i in range(12)),
    conversation("Hi", "Hello!", "Sort: b, a", "a, b"),
    conversation("Name a river.", "The Rhine.", system="Be brief."),
    conversation("Long", "word " * 300),  # longer than the window: no room for a shot
]
NEARLY_FULL = conversation("Nearly full", "word " * 74)  # its shot must be cut


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("llama")), max_length=256)


@pytest.mark.parametrize("budget", [1, 120, 100_000])
def test_together_equals_one_pass_after_the_other(lm: LanguageModel, budget: int) -> None:
    lm.spec = lm.spec.model_copy(update={"batch_tokens": budget})
    samples = samples_frame([*CONVERSATIONS, NEARLY_FULL])
    ids = samples["sample_id"]
    random = np.random.default_rng(0)
    # Three samples are everybody's shot, one of them the long one; the last sample has none.
    shots = [ids[int(at)] for at in random.choice(3, len(ids))]
    shots = [ids[3] if shot == own else shot for own, shot in zip(ids, shots, strict=True)]
    pairs = pl.DataFrame({"sample_id": ids, "shot_id": [*shots[:-1], None]}, schema_overrides={"shot_id": pl.String})

    before = lm.forward.tokens
    apart = score(lm, samples, KINDS, SETTINGS)
    zero_shot = apart["difficulty"].select("sample_id", zero_shot_loss="loss")
    values = pl.concat(list(miwv.compute(lm, samples, pairs.join(zero_shot, on="sample_id")))).sort("sample_id")
    taken = lm.forward.tokens - before

    seen: list[int] = []
    parts = list(score_together(lm, samples, pairs, SETTINGS, KINDS | {"miwv"}, lambda done, *_: seen.append(done)))
    assert seen[-1] == samples.height
    if budget > 1:
        assert lm.forward.tokens - before - taken < taken
    for kind, expected in (apart | {"miwv": values}).items():
        found = pl.concat([part[kind] for part in parts if kind in part]).sort("sample_id")
        assert found.select(pl.exclude(pl.Float32, pl.Array(pl.Float32, 32))).equals(
            expected.select(pl.exclude(pl.Float32, pl.Array(pl.Float32, 32)))
        ), kind
        for column in found.select(pl.col(pl.Float32, pl.Array(pl.Float32, 32))).columns:
            assert found[column].is_null().equals(expected[column].is_null())
            gap = np.abs(found[column].drop_nulls().to_numpy() - expected[column].drop_nulls().to_numpy())
            assert gap.max() < 2e-5, (kind, column)
    reasons = set(values["reason"].drop_nulls())
    assert reasons == {"no other sample to be its shot", "no room for a shot in the window"}
    assert values["cut_shot_tokens"].max() > 0  # type: ignore[operator]


def test_only_what_is_wanted_comes(lm: LanguageModel, tmp_path: Path) -> None:
    samples = samples_frame(CONVERSATIONS[:4])
    ids = samples["sample_id"]
    pairs = pl.DataFrame({"sample_id": ids, "shot_id": [ids[1], ids[0], ids[0], ids[0]]})
    parts = list(score_together(lm, samples, pairs, SETTINGS, frozenset({"miwv"})))
    assert {kind for part in parts for kind in part} == {"miwv"}
    assert sorted(pl.concat([part["miwv"] for part in parts if part])["sample_id"]) == sorted(ids)
