"""One row that the model's chat template rewrites: the refresh goes on, the row is a null with its reason."""

import json
from pathlib import Path

import polars as pl

from tests.chat_templates import FAMILIES
from tests.e2e.graph import Graph, errors
from tests.tiny import conversation, save_llama


def test_the_other_rows_are_scored_and_chosen_from(tmp_path: Path) -> None:
    rows = [conversation(f"Name metal number {i}.", f"Metal number {i} is a metal.") for i in range(11)]
    rows.append(conversation("Name a gas.", "<think>\nNoble ones come to mind.\n</think>\n\nArgon."))
    graph = Graph(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    model = str(save_llama(tmp_path / "model", template=FAMILIES["deepseek r1"]))
    recipes = {"d3": {"strategy": "d3", "budget": 4}, "miwv": {"strategy": "miwv", "budget": 4}}
    graph.settings(sources={"s": {"path": "rows.jsonl"}}, model={"path": model}, coresets=recipes)
    result = graph.refresh()
    assert not errors(result)
    scores = graph.scores("difficulty")
    (odd,) = scores.filter(pl.col("upd").is_null()).to_dicts()
    assert scores.height == 12
    assert "leaves out its thinking" in odd["reason"]
    for recipe in recipes:
        order = graph.order(recipe)
        assert order.height == 4
        assert odd["sample_id"] not in order["sample_id"]
        assert sum(graph.manifest(recipe)["excluded_reasons"].values()) == 1
    assert not graph.refresh().runs
