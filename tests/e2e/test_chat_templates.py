"""What a model's chat template does to a refresh: a row that it rewrites, shots that it does not let share."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.chat_templates import FAMILIES
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, errors, materialised
from tests.tiny import conversation, save_llama


def test_the_other_rows_are_scored_and_chosen_from(tmp_path: Path) -> None:
    rows = [conversation(f"Name metal number {i}.", f"Metal number {i} is a metal.") for i in range(11)]
    rows.append(conversation("Name a gas.", "<think>\nNoble ones come to mind.\n</think>\n\nArgon."))
    graph = Graph(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    model = str(save_llama(tmp_path / "model", template=FAMILIES["deepseek r1"]))
    recipes = {"d3": {"strategy": "d3", "budget": 4}, "miwv": {"strategy": "miwv", "budget": 4}}
    # A source of which no row can be rendered.
    odd_rows = [conversation(f"Which gas {i}?", f"<think>\nNo. {i}.\n</think>\n\nArgon.") for i in range(3)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in odd_rows))
    graph.settings(
        sources={"s": {"path": "rows.jsonl"}, "t": {"path": "odd.jsonl"}}, model={"path": model}, coresets=recipes
    )
    result = graph.refresh()
    assert not errors(result)
    scores = graph.scores("difficulty")
    odd = scores.filter(pl.col("upd").is_null())
    assert (scores.height, odd.height) == (15, 4)
    assert odd["reason"].str.contains("leaves out its thinking").all()
    for recipe in recipes:
        order = graph.order(recipe)
        assert order.height == 4
        assert not set(odd["sample_id"]) & set(order["sample_id"])
        assert sum(graph.manifest(recipe)["excluded_reasons"].values()) == 4
    assert not graph.refresh().runs


@pytest.mark.parametrize(("family", "shared"), [("chatml", True), ("qwen3", False)])
def test_a_plan_counts_a_shot_once_only_where_the_template_lets_it_be_shared(
    family: str, shared: bool, tmp_path: Path
) -> None:
    graph = Graph(tmp_path)
    graph.source("s", alpaca([*WORDS, *WORDS]))
    model = str(save_llama(tmp_path / "model", template=FAMILIES[family]))
    graph.settings(
        sources={"s": {"path": "data/s.json"}},
        model={"path": model},
        coresets={"weak": {"strategy": "miwv", "budget": 4}},
    )
    assert not graph.refresh().failed
    for part in (tmp_path / ".dselect" / "scores" / "miwv").rglob("*.parquet"):
        part.unlink()
    (tmp_path / ".dselect" / "corpus" / "miwv.parquet").unlink()
    (step,) = [step for step in graph.plan().steps if step.asset == "miwv_values"]
    figures = materialised(graph.refresh())["miwv_values", None]
    assert step.computed == figures["rows computed"] == graph.pool().height
    assert step.tokens == pytest.approx(figures["tokens"], rel=0.2)
    lengths = graph.scores("difficulty").select("sample_id", tokens=pl.col("prompt_tokens") + pl.col("response_tokens"))
    shots = pl.read_parquet(tmp_path / ".dselect" / "corpus" / "neighbors.parquet").select(sample_id="shot_id")
    assert shots.n_unique() < 0.9 * shots.height
    each_with_its_own = lengths["tokens"].sum() + shots.join(lengths, on="sample_id")["tokens"].sum()
    assert (step.tokens < 0.95 * each_with_its_own) == shared
