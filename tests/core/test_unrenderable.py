"""One row that the model's chat template cannot render is a null with a reason, and stops no other row."""

from pathlib import Path

import polars as pl
import pytest

from dselect_core.lm.load import LanguageModel
from dselect_core.neighbors.nearest import nearest
from dselect_core.scores import miwv
from dselect_core.settings.settings import Settings
from tests.chat_templates import FAMILIES
from tests.tiny import conversation, open_llama, samples_frame, save_llama, score

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
KINDS = frozenset({"difficulty", "embeddings", "prompts", "activations"})
PLAIN = [conversation(f"How many legs has animal {i}?", f"It has {i} legs.") for i in range(6)]
THINKS = conversation("How many legs has a spider?", "<think>\nEight, surely.\n</think>\n\nEight.")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("model"), template=FAMILIES["deepseek r1"]))


def test_the_other_rows_are_scored_as_if_it_were_not_there(lm: LanguageModel) -> None:
    samples = samples_frame([*PLAIN, THINKS])
    scored = score(lm, samples, KINDS, SETTINGS)
    alone = score(lm, samples_frame(PLAIN), KINDS, SETTINGS)
    (odd,) = samples_frame([THINKS])["sample_id"]
    for kind, table in scored.items():
        assert table.filter(pl.col("sample_id") != odd).equals(alone[kind])
        (row,) = table.filter(pl.col("sample_id") == odd).to_dicts()
        assert "leaves out its thinking" in row.pop("reason")
        assert {name for name, value in row.items() if value is not None} == {"sample_id"}


def test_where_no_row_can_be_rendered_each_has_its_reason(lm: LanguageModel) -> None:
    for table in score(lm, samples_frame([THINKS]), KINDS, SETTINGS).values():
        assert table["reason"].null_count() == 0


def test_samples_whose_shot_cannot_be_rendered_have_the_shot_s_reason(lm: LanguageModel) -> None:
    samples = samples_frame([PLAIN[0], THINKS])
    zero = score(lm, samples, KINDS, SETTINGS)["difficulty"].select("sample_id", zero_shot_loss="loss")
    ids = samples["sample_id"].to_list()
    pairs = pl.DataFrame({"sample_id": ids, "shot_id": ids[::-1]}).join(zero, on="sample_id", maintain_order="left")
    values = pl.concat(list(miwv.compute(lm, samples, pairs)))
    reasons = dict(values.select("sample_id", "reason").iter_rows())
    (odd,) = samples_frame([THINKS])["sample_id"]
    assert reasons.pop(odd) == "no zero-shot loss"
    (reason,) = reasons.values()
    assert reason.startswith("its shot: the chat template does not print the response")


def test_shots_are_not_shared_where_the_template_prints_history_in_another_way(tmp_path: Path) -> None:
    samples = samples_frame(PLAIN)
    by_family = {}
    for family in ("chatml", "qwen3"):
        lm = open_llama(save_llama(tmp_path / family, template=FAMILIES[family]))
        scored = score(lm, samples, KINDS, SETTINGS)
        zero = scored["difficulty"].select("sample_id", zero_shot_loss="loss")
        shots = nearest(scored["prompts"]["sample_id"], scored["prompts"]["prompt_embedding"].to_numpy())
        # All behind one shot.
        first, second = shots["sample_id"][:2]
        other = pl.when(pl.col("sample_id") == first).then(pl.lit(second)).otherwise(pl.lit(first))
        before = lm.forward.tokens
        pairs = shots.with_columns(shot_id=other).join(zero, on="sample_id", maintain_order="left")
        values = pl.concat(list(miwv.compute(lm, samples, pairs)))
        assert values["miwv"].null_count() == 0
        rendered = {
            i: lm.renderer.render(m) for i, m in zip(samples["sample_id"], map(plain, samples["messages"]), strict=True)
        }
        whole = [
            lm.renderer.one_shot(rendered[i], rendered[s]) for i, s in pairs.select("sample_id", "shot_id").iter_rows()
        ]
        by_family[family] = (lm.forward.tokens - before, sum(len(one.ids) for one in whole if one is not None))
    tokens, if_not_shared = by_family["chatml"]
    assert tokens < if_not_shared
    tokens, if_not_shared = by_family["qwen3"]
    assert tokens == if_not_shared


def plain(messages: pl.Series) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in messages]
