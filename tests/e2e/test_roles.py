"""Eval and target sources are never chosen from, nor is what the pool shares with them; roles are edited at will."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.coreset.manifest import OTHER_ROLE
from dselect_core.lineage.quality_checks import little_is_held_out
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.held_out import candidate_samples
from tests.e2e.conftest import RECIPES, WORDS, InState
from tests.e2e.content import id_of
from tests.e2e.graph import CORPUS_WIDE, SCORES, Graph, alpaca, assert_as_planned, made, materialised
from tests.e2e.test_cli import dselect

pytestmark = pytest.mark.some(4)

QUESTION = "Which three rivers meet at the old town of Passau in the very south east of Germany?"
ANSWER = "The Danube, the Inn and the Ilz meet there, and each of the three has water of another colour."
EVAL = [{"instruction": QUESTION, "input": "", "output": ANSWER}, *alpaca(["ochre", "umber"], offset=300)]
PLANTED = {
    "exact": EVAL[0],
    "paraphrased": {"instruction": QUESTION.upper().replace("?", " … ??"), "input": "", "output": ANSWER.lower()},
    "quoted": {
        "instruction": "Tell me of a town.",
        "input": "",
        "output": f"Well: {ANSWER[:70]} So.",
    },
    "other answer": {"instruction": QUESTION, "input": "", "output": "No idea."},
}
REASONS = {
    "exact": "held out: it is a sample of an eval source (ev)",
    "paraphrased": f"held out: its prompt is that of an eval sample (sample {id_of(EVAL[0])[:12]} of ev)",
    "quoted": f"held out: shares 13 words in a row with an eval sample (sample {id_of(EVAL[0])[:12]} of ev)",
    "other answer": f"held out: its prompt is that of an eval sample (sample {id_of(EVAL[0])[:12]} of ev)",
}
STRATEGIES = RECIPES | {
    "random": {"strategy": "random", "budget": 20},
    "center": {"strategy": "kcenter", "budget": 20},
    "easy": {"strategy": "topk:upd", "budget": 20},
    "spread": {"strategy": "facility-location", "budget": 20},
}
IDS = {name: id_of(row) for name, row in PLANTED.items()}


def with_roles(graph: Graph, **roles: str) -> None:
    graph.settings(sources={name: {"path": f"data/{name}.json", "role": role} for name, role in roles.items()})


def as_planned(graph: Graph, **options: Any) -> set[tuple[str, str | None]]:
    """A refresh that makes what the plan said; returns what."""
    planned = graph.plan()
    done = graph.refresh(**options)
    assert_as_planned(planned, done)
    assert done.is_whole
    assert not graph.plan().steps
    return made(done)


def recipes(graph: Graph) -> set[tuple[str, str | None]]:
    return {(asset, recipe) for asset in ("candidates", "coreset") for recipe in graph.workspace.settings.coresets}


@pytest.fixture
def planted(graph: Graph, in_state: InState) -> Graph:
    return in_state(graph, plant)


def plant(graph: Graph) -> None:
    """The pool holds what an eval source holds, in four ways."""
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *PLANTED.values()])
    graph.source("ev", EVAL)
    with_roles(graph, a="train", b="train", ev="eval")
    graph.settings(coresets=STRATEGIES)
    as_planned(graph)


def test_a_planted_eval_row_never_reaches_a_coreset_and_why_tells_the_reason(planted: Graph) -> None:
    index = read_index(planted.workspace)
    assert dict(index.held_out.rows.iter_rows()) == {IDS[name]: reason for name, reason in REASONS.items()}
    assert not set(index.frame["sample_id"]) & {id_of(row) for row in EVAL[1:]}
    for recipe in STRATEGIES:
        assert not set(planted.order(recipe)["sample_id"]) & {*IDS.values(), *map(id_of, EVAL)}, recipe
        manifest = planted.manifest(recipe)
        assert manifest["held_out"]["rows"] == 4
        assert manifest["held_out"]["sources"] == {"ev": 4}
        assert manifest["counts"]["pool"] == 32  # a share of the budget is a share of it all
        assert manifest["excluded_reasons"] == {
            "held out: it is a sample of an eval source": 1,
            "held out: its prompt is that of an eval sample": 2,
            "held out: shares 13 words in a row with an eval sample": 1,
        }
    verdict = little_is_held_out(planted.workspace)
    assert not verdict.passed
    assert verdict.description.startswith("4 of 32 samples (12.5%) are held out; ")
    assert verdict.description.endswith("; because of ev: 4")
    shots = pl.read_parquet(str(planted.workspace.neighbors))
    assert not {*shots["sample_id"], *shots["shot_id"]} & set(IDS.values())
    for name, reason in REASONS.items():
        told = dselect(planted.folder, "why", IDS[name])
        assert f"d3 (d3, 25%): out: cannot be chosen: {reason}" in told
    told = dselect(planted.folder, "why", id_of(EVAL[1]))
    assert "row 2 (role eval: never chosen)" in told
    assert "d3 (d3, 25%): out: never chosen: it is of ev (role eval)" in told


def test_the_warm_up_sees_no_eval_row_and_nothing_that_is_held_out(planted: Graph) -> None:
    samples = candidate_samples(planted.workspace, ["a", "b", "ev"])
    assert set(samples["sample_id"]) == set(read_index(planted.workspace).candidates["sample_id"])
    assert not set(samples["sample_id"]) & {*IDS.values(), *map(id_of, EVAL)}


def test_a_builtin_model_that_is_made_after_the_eval_source_is_tuned_without_it(tmp_path: Path) -> None:
    records = []
    for rows in (alpaca(WORDS), [*alpaca(WORDS), *PLANTED.values()]):
        graph = Graph(tmp_path / str(len(records)))
        graph.folder.mkdir()
        graph.source("a", rows)
        graph.source("ev", EVAL)
        with_roles(graph, a="train", ev="eval")
        graph.settings(coresets={"easy": {"strategy": "topk:upd", "budget": 5}})
        done = graph.refresh()
        records.append(materialised(done)["warmup_model", None]["identity"])
    assert records[0] == records[1]


def test_a_new_eval_source_that_shares_nothing_makes_the_index_and_nothing_else(graph: Graph) -> None:
    graph.source("ev", alpaca(["ochre", "umber"], offset=300))
    with_roles(graph, a="train", b="train", ev="eval")
    assert as_planned(graph) == {("raw_dataset", "ev"), ("corpus_index", None), *((asset, "ev") for asset in SCORES)}


def test_a_new_eval_source_computes_no_score_of_the_pool_and_is_compared_with_all_of_it(graph: Graph) -> None:
    graph.source("ev", [alpaca(WORDS)[3], *EVAL])
    with_roles(graph, a="train", b="train", ev="eval")
    planned = graph.plan()
    done = graph.refresh()
    assert assert_as_planned(planned, done) >= len(SCORES)
    figures = materialised(done)
    assert set(figures) == {
        ("raw_dataset", "ev"),
        *((asset, "ev") for asset in SCORES),
        *CORPUS_WIDE,
        *recipes(graph),
    }
    # One of its four rows stands in the pool, where it is scored.
    assert all(figures[asset, "ev"]["rows computed"] == 3 for asset in SCORES)
    assert figures["corpus_index", None]["rows compared with eval sources"] == 28
    assert graph.manifest("d3")["changes"]["left"].keys() | graph.manifest("weak")["changes"]["left"].keys() <= {
        "held out",
        "other rows",
        "changed score",
    }


def test_a_new_row_of_the_pool_is_compared_alone(planted: Graph) -> None:
    planted.source("a", [*alpaca(WORDS), PLANTED["quoted"] | {"instruction": "Of rivers?"}])
    planned = planted.plan()
    done = planted.refresh()
    assert_as_planned(planned, done)
    assert materialised(done)["corpus_index", None]["rows compared with eval sources"] == 1
    assert materialised(done)["corpus_index", None]["held out"] == 5
    # It can be nobody's shot, and nothing it does moves an order: the coresets are of the same rows.
    assert materialised(done)["neighbors", None]["rows computed"] == 0


def test_an_eval_source_that_changes_is_compared_with_all_of_the_pool(planted: Graph) -> None:
    planted.source("ev", EVAL[1:])
    planned = planted.plan()
    done = planted.refresh()
    assert_as_planned(planned, done)
    assert materialised(done)["corpus_index", None]["rows compared with eval sources"] == 32
    assert read_index(planted.workspace).held_out.rows.is_empty()
    assert "held_out" not in planted.manifest("d3")


@pytest.mark.walk(1)
@pytest.mark.parametrize("role", ["eval", "target"])
def test_a_source_that_is_not_chosen_from_any_more_leaves_without_a_fault(graph: Graph, role: str) -> None:
    pool, of_role = graph.pool(), "an eval" if role == "eval" else "a target"
    with_roles(graph, a="train", b=role)
    assert as_planned(graph) == {*CORPUS_WIDE, *recipes(graph)}
    assert graph.manifest("d3")["sources_left"] == {"b": OTHER_ROLE}
    # `a` and `b` have one row in common.
    assert set(graph.pool()["sample_id"]) == {id_of(row) for row in alpaca(WORDS)}
    assert graph.manifest("wide")["excluded_reasons"] == {f"held out: it is a sample of {of_role} source": 1}
    with_roles(graph, a="train", b="train")
    assert as_planned(graph) == {*CORPUS_WIDE, *recipes(graph)}
    assert graph.pool().equals(pool)


def test_a_target_source_holds_out_its_own_samples_alone(planted: Graph) -> None:
    with_roles(planted, a="train", b="train", ev="target")
    assert as_planned(planted) >= {("corpus_index", None), *recipes(planted)}
    rows = read_index(planted.workspace).held_out.rows
    assert dict(rows.iter_rows()) == {IDS["exact"]: "held out: it is a sample of a target source (ev)"}


def test_a_target_source_that_shares_nothing_moves_nothing(graph: Graph) -> None:
    graph.source("want", alpaca(["ochre", "umber"], offset=300))
    with_roles(graph, a="train", b="train", want="target")
    as_planned(graph)
    with_roles(graph, a="train", b="train", want="eval")
    assert as_planned(graph) == {("corpus_index", None)}
    graph.sources("ab")
    assert as_planned(graph) >= {("raw_dataset", "want"), ("corpus_index", None)}
    assert not {asset for asset, _ in as_planned(graph)}


def test_an_eval_source_that_has_not_landed_is_told(graph: Graph) -> None:
    with_roles(graph, a="train", b="train", ev="eval")
    done = graph.refresh()
    assert done.left_out == {"ev": "not landed yet, so nothing of the pool is held out for it"}
    graph.source("ev", EVAL)
    assert graph.refresh().is_whole


def test_a_lost_index_is_made_again_with_what_is_held_out(planted: Graph) -> None:
    before = read_index(planted.workspace)
    planted.workspace.index.unlink()
    assert as_planned(planted) == {("corpus_index", None)}
    after = read_index(planted.workspace)
    assert after.version == before.version
    assert after.held_out.rows.equals(before.held_out.rows)


def test_a_kill_between_the_index_and_the_coresets_is_made_good(graph: Graph) -> None:
    graph.source("ev", [alpaca(WORDS)[3]])
    with_roles(graph, a="train", b="train", ev="eval")
    graph.refresh_killed("candidates")
    assert as_planned(graph) >= {("coreset", recipe) for recipe in RECIPES}
    assert graph.manifest("d3")["held_out"]["rows"] == 1
