"""Several graders by name: what is bought of each, what a recipe reads of them, and what an edit of one moves."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from scipy import stats

from dselect_core.errors import DselectError
from dselect_dagster.cli import app as cli
from dselect_dagster.cli import grades as cli_of_grades
from tests.e2e.conftest import WORDS, InState
from tests.e2e.graph import Graph, alpaca, assert_as_planned, made, materialised
from tests.openai_server import OpenAIServer, Reply, Request, rating
from tests.tiny import save_llama

pytestmark = pytest.mark.some(2)

ROWS = 12
PRICES = {"judge-a": {"prompt": 1000.0, "completion": 10_000.0}, "judge-b": {"prompt": 500.0, "completion": 1000.0}}


class Judges:
    """One endpoint with several models, each with ratings of its own; counts what each was asked."""

    def __init__(self) -> None:
        self.server = OpenAIServer(self.answer)
        self.fails: set[str] = set()

    def answer(self, request: Request) -> Reply:
        model = request.body["model"]
        if any(text in request.text for text in self.fails) and model == "judge-b":
            return rating("no number")
        return rating(1 + (len(request.text) * (7 if model == "judge-a" else 3)) % 5, usage=(100, 10))

    def calls(self) -> dict[str, int]:
        """Since the last look, by model."""
        counts: dict[str, int] = {}
        for request in self.server.requests:
            counts[request.body["model"]] = counts.get(request.body["model"], 0) + 1
        self.server.requests.clear()
        return counts

    def grader(self, model: str, **options: Any) -> dict[str, Any]:
        held = {"base_url": self.server.base_url, "model": model, "max_retries": 0, "max_tokens": 10}
        return held | {"usd_per_million_tokens": PRICES[model]} | options


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    judges = Judges()
    with judges.server:
        yield judges


def recipe(grade: Any = None) -> dict[str, Any]:
    return {"strategy": "topk:grade", "budget": 4} | ({} if grade is None else {"grade": grade})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def graph(folder: Path, tmp_path_factory: pytest.TempPathFactory, judges: Judges, in_state: InState) -> Graph:
    """One judge of two is read so far."""

    def make(graph: Graph) -> None:
        graph.source("x", alpaca(WORDS[:ROWS]))
        graph.sources("x")
        graph.settings(
            model={"path": str(save_llama(tmp_path_factory.mktemp("model") / "model"))},
            graders={"a": judges.grader("judge-a"), "b": judges.grader("judge-b")},
            coresets={"one": recipe("a")},
        )
        assert graph.refresh().is_whole
        assert judges.calls() == {"judge-a": ROWS}  # nobody reads b yet

    judges.fails.clear()
    judges.server.requests.clear()
    return in_state(Graph(folder), make)


Told = Callable[..., str]


@pytest.fixture
def told(graph: Graph, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a command prints for the graph, on one line; one that fails is run to its end."""

    def run(command: Callable[..., None], *arguments: Any, **options: Any) -> str:
        capsys.readouterr()
        with contextlib.suppress(typer.Exit):
            command(*arguments, config=graph.config, **options)
        return " ".join(capsys.readouterr().out.split())

    return run


def grades(graph: Graph, judge: str) -> pl.DataFrame:
    return graph.scores(f"grades@{judge}").select("sample_id", "grade", "grader")


def test_a_second_judge_is_bought_alone_and_moves_only_who_reads_it(graph: Graph, judges: Judges) -> None:
    before = graph.order("one")
    both = {by: recipe({"of": ["b", "a"], "by": by}) for by in ("mean", "min")}
    graph.settings(coresets={"one": recipe("a"), **both})
    plan = graph.plan()
    assert {judge: bought.rows for judge, bought in plan.bought.items()} == {"b": ROWS}
    assert plan.usd(graph.workspace.settings) == pytest.approx(plan.usd_of("b", graph.workspace.settings))
    done = graph.refresh()
    assert judges.calls() == {"judge-b": ROWS}
    assert_as_planned(plan, done)
    made_now = made(done)
    assert ("dependability_grades", "x") in made_now and ("coreset", "one") not in made_now
    assert {name for asset, name in made_now if asset == "coreset"} == set(both)
    assert graph.order("one").equals(before)
    a, b = grades(graph, "a"), grades(graph, "b")
    assert set(a["grader"]) == {"judge-a"} and set(b["grader"]) == {"judge-b"}
    table = a.join(b, on="sample_id", suffix="_b")
    expected = {"min": pl.min_horizontal("grade", "grade_b"), "mean": (pl.col("grade") + pl.col("grade_b")) / 2}
    for by in both:
        wanted = table.select("sample_id", of=expected[by if by == "min" else "mean"]).sort(
            ["of", "sample_id"], descending=[True, False]
        )
        assert graph.order(by)["sample_id"].to_list() == wanted["sample_id"].head(4).to_list()
        assert graph.order(by)["gain"].to_list() == pytest.approx(wanted["of"].head(4).to_list())
    assert set(graph.manifest("min")["scores"]) == {"grades@a", "grades@b"}
    assert graph.refresh().runs == [] and graph.plan().steps == []


def test_an_edited_rubric_buys_again_that_judge_s_grades_alone(graph: Graph, judges: Judges) -> None:
    graph.settings(coresets={"one": recipe("a"), "two": recipe("b"), "both": recipe(["a", "b"])})
    graph.refresh()
    judges.calls()
    (graph.folder / "strict.md").write_text("Be strict. Is all of it true?")
    graders = {"a": judges.grader("judge-a"), "b": judges.grader("judge-b", rubric="strict.md")}
    graph.settings(graders=graders)
    plan = graph.plan()
    done = graph.refresh()
    assert judges.calls() == {"judge-b": ROWS}
    assert_as_planned(plan, done)
    assert {name for asset, name in made(done) if asset == "coreset"} == {"two", "both"}
    # One row more: each of the two judges is asked for that row.
    graph.source("x", alpaca(WORDS[: ROWS + 1]))
    assert graph.refresh().is_whole
    assert judges.calls() == {"judge-a": 1, "judge-b": 1}


def test_names_are_no_part_of_what_was_bought(graph: Graph, judges: Judges) -> None:
    graph.settings(graders={"first": judges.grader("judge-a")}, coresets={"one": recipe()})  # the only one: as it says
    assert graph.refresh().is_whole
    assert judges.calls() == {} and graph.manifest("one")["grade"] == {"of": ["first"], "by": "mean"}
    graph.settings(graders={}, grader=judges.grader("judge-a"))
    assert graph.refresh().is_whole
    assert judges.calls() == {} and "grade" not in graph.manifest("one")
    assert graph.refresh().runs == []


def test_a_row_that_one_judge_did_not_grade_is_not_chosen_by_both(graph: Graph, judges: Judges, told: Told) -> None:
    judges.fails = {"Say red 0 times"}
    graph.settings(coresets={"both": {**recipe(["a", "b"]), "budget": ROWS - 1}, "one": recipe("a")})
    assert not graph.refresh().is_whole  # it is asked again next time
    b = grades(graph, "b")
    failed = b.filter(pl.col("grade").is_null())["sample_id"]
    assert len(failed) == 1 and grades(graph, "a")["grade"].null_count() == 0
    assert failed[0] not in graph.order("both")["sample_id"]
    story = told(cli.why, failed[0])
    assert "cannot be chosen: no grade" in story and "grades@a" in story and "grades@b" in story


def test_caps_and_spend_are_each_judge_s_own(graph: Graph, judges: Judges, told: Told) -> None:
    capped = {"a": judges.grader("judge-a", max_usd=0.01), "b": judges.grader("judge-b", max_usd=1.5)}
    graph.settings(graders=capped, coresets={"both": recipe(["a", "b"])})
    assert "a refresh stops at graders.b.max_usd $1.5" in told(cli.plan)
    said = told(cli.refresh)
    bought = judges.calls()
    assert set(bought) == {"judge-b"} and 0 < bought["judge-b"] < ROWS  # a has all of its grades
    reasons = graph.scores("grades@b")["error"].drop_nulls()
    assert len(reasons) == ROWS - bought["judge-b"]
    assert all("the cap is reached: graders.b.max_usd of $1.5" in reason for reason in reasons)
    assert f"{bought['judge-b']} calls to b (judge-b)" in said
    costs = told(cli_of_grades.cost)
    assert "judge" in costs and "$2.40" in costs and f"${bought['judge-b'] * 0.06:.4f}" in costs


def test_a_few_grades_of_one_and_what_is_needed_of_both(graph: Graph, judges: Judges, told: Told) -> None:
    graph.settings(coresets={"one": recipe("a"), "both": recipe(["a", "b"])})
    with pytest.raises(DselectError, match="say which, by --grader"):
        told(cli_of_grades.try_, 3)
    assert f"would buy {ROWS - 3} more" in told(cli_of_grades.try_, 3, grader="b")
    assert judges.calls() == {"judge-b": 3}
    needed = told(cli_of_grades.needed)
    assert "Of a:" in needed and "Of a, b:" in needed and f"3 of {ROWS} rows were graded" in needed


def test_agreement_of_two_judges_is_shown_and_printed(graph: Graph, judges: Judges, told: Told) -> None:
    with pytest.raises(DselectError, match="no row was graded by both a and b"):
        told(cli_of_grades.compare, "a", "b")
    graph.settings(coresets={"both": recipe(["a", "b"])})
    shown = materialised(graph.refresh())["dependability_grades", "x"]
    for judge, computed in (("a", 0), ("b", ROWS)):
        assert shown[f"grades@{judge} rows computed"] == computed
        assert shown[f"mean grade by {judge}"] == pytest.approx(grades(graph, judge)["grade"].mean())
    assert shown["judge calls"] == ROWS
    table = grades(graph, "a").join(grades(graph, "b"), on="sample_id", suffix="_b")
    spearman = stats.spearmanr(table["grade"], table["grade_b"]).statistic
    assert shown["rank correlation, a and b"] == pytest.approx(spearman)
    assert "a and b" in shown["agreement of judges"] and "data:image/png" in shown["levels, a and b"]
    printed = told(cli_of_grades.compare, "a", "b", rows=3)
    furthest = table.with_columns(gap=(pl.col("grade") - pl.col("grade_b")).abs())
    furthest = furthest.sort("gap", "sample_id", descending=[True, False])
    assert f"a and b: {ROWS} rows graded by both (0 by a alone, 0 by b alone)" in printed
    assert f"rank correlation (Spearman) {spearman:.3f}" in printed
    assert all(sample_id[:8] in printed for sample_id in furthest["sample_id"].head(3))


def test_grades_given_again_say_how_far_a_judge_agrees_with_itself(graph: Graph, judges: Judges, told: Told) -> None:
    graders = {"a": judges.grader("judge-a", repeat=3, repeat_rows=4), "b": judges.grader("judge-b")}
    graph.settings(graders=graders)
    plan = graph.plan()
    assert plan.bought["a"].rows == 8 and {step.asset for step in plan.steps} == {"dependability_grades"}
    assert "8 grades@a are to be graded again" in told(cli.status)
    done = graph.refresh()
    assert judges.calls() == {"judge-a": 8}  # four rows, twice more
    assert_as_planned(plan, done)
    shown = materialised(done)["dependability_grades", "x"]
    assert shown["rank correlation, a with itself"] == pytest.approx(1.0)  # this one says the same again
    assert graph.refresh().runs == [] and judges.calls() == {}
    assert "12 pairs of grades of 4 rows" in told(cli_of_grades.compare, "a", "a")
    # Another rubric is another judge, and what was repeated of the former one says nothing of it.
    (graph.folder / "strict.md").write_text("Be strict.")
    graph.settings(graders={**graders, "a": {**graders["a"], "rubric": "strict.md"}})
    assert graph.refresh().is_whole
    assert judges.calls() == {"judge-a": ROWS + 8}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"coresets": {"one": recipe()}}, r"coresets.one: it reads grades, and several graders are named"),
        ({"coresets": {"one": recipe("c")}}, r"coresets.one.grade: no grader `c`. There are: a, b"),
        ({"coresets": {"one": recipe(["a", "a"])}}, "name each grader once"),
        ({"coresets": {"one": {"strategy": "random", "budget": 3, "grade": "a"}}}, "`random` reads none"),
        ({"grader": {"model": "judge-a"}}, "give `grader` or `graders`, not both"),
        ({"near_duplicates": {"threshold": 0.9}}, "near_duplicates: it reads grades, and several"),
        ({"graders": {"a/b": {}}, "coresets": {"one": recipe()}}, "'a/b' is no name"),
        ({"graders": {"a": {"repeat": 3}}, "coresets": {"one": recipe()}}, "heuristic gives the same grade again"),
        ({"coresets": {"one": {**recipe(["a", "b"]), "strategy": "topk:reward"}}}, "`reward` is one judge's"),
        ({"coresets": {"one": {**recipe("b"), "strategy": "topk:reward"}}}, "Add `graders.b: {reward_model"),
    ],
)
def test_what_cannot_be_meant_is_said(graph: Graph, settings: dict[str, Any], said: str) -> None:
    graph.settings(**settings)
    with pytest.raises(DselectError, match=said):
        _ = graph.workspace
