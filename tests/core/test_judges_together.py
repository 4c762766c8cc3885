"""Several judges, each with rubrics of sources, batches, criteria and repeats of its own, on one endpoint."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.graders.open_batches import open_batches, questions
from dselect_core.graders.spend import Ledger
from dselect_core.lineage.explain import story
from dselect_core.lineage.grades_needed import grades_needed
from dselect_core.lineage.lost_tables import lost_scores
from dselect_core.lineage.quality_checks import scores_are_sound
from dselect_core.pool.corpus_index import build_index
from dselect_core.scores.compare_grades import agreements_of, compare_grades
from dselect_core.scores.provenance import store_of
from dselect_core.scores.try_grades import try_grades
from dselect_core.scores.update import update_scores
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from tests.batch_server import BatchServer
from tests.graded import Graded
from tests.openai_server import Reply, Request, completion, rating

ROWS = {"x": ["both", "x1", "x2"], "y": ["both", "y1"]}
ALL = sum(map(len, ROWS.values()))
JUDGES = frozenset({"grades@strict", "grades@kind"})


def answer(request: Request) -> Reply:
    if "Facts." in request.text:
        return completion(json.dumps({"facts": 2, "tone": 5}))
    return rating(5 if "tales" in request.text else 1 + len(request.text) % 4, usage=(100, 10))


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(answer, hold=True) as server:
        yield server


class Project(Graded):
    """Two judges: one in batches, twice for two rows, with a rubric for y; one live, with a rubric for x."""

    def settings(self, **strict: Any) -> None:
        held = {"base_url": self.server.base_url, "max_retries": 0, "max_tokens": 10}
        priced = {"usd_per_million_tokens": {"prompt": 1000.0, "completion": 1000.0}}
        in_batch = {"mode": "batch", "batch": {"wait_seconds": 0}, "repeat": 2, "repeat_rows": 2}
        graders = {
            "strict": held | priced | in_batch | {"model": "judge-1", "rubrics": {"y": "tales.md"}} | strict,
            "kind": held | {"model": "judge-2", "rubrics": {"x": "tales.md"}},
        }
        written = {
            "sources": {source: {"path": f"{source}.json"} for source in self.rows},
            "coresets": {"best": {"strategy": "topk:grade", "budget": 2, "grade": ["strict", "kind"]}},
            "graders": graders,
        }
        (self.folder / "dselect.yaml").write_text(json.dumps(written))

    def graded(self) -> Counter[str]:
        """Land all and grade what lacks a grade: calls by model, but the small questions, and rows put into batches."""
        self.land()
        before = len(self.server.requests), len(self.server.batches)
        for source in self.rows:
            update_scores(self.workspace, source, JUDGES)
        live = [each for each in self.server.requests[before[0] :] if "it is." in each.text]
        batches = list(self.server.batches.values())[before[1] :]
        in_batches = Counter({"in batches": sum(len(each["lines"]) for each in batches)})
        return Counter(each.body["model"] for each in live) + in_batches


@pytest.fixture
def project(tmp_path: Path, server: BatchServer) -> Project:
    (tmp_path / "tales.md").write_text("Grade tales.")
    project = Project(tmp_path, server, ROWS)
    project.settings()
    return project


def test_each_judge_has_its_own_mode_rubrics_and_repeats(project: Project, server: BatchServer) -> None:
    # Strict has five rows in batches, and two of each source once more; kind has asked for its five.
    assert project.graded() == {"judge-2": ALL, "in batches": ALL + 4}
    asked = questions(project.workspace.settings)
    assert Counter((spec.name, spec.turn) for spec in asked.values()) == {
        ("strict", 1): 2, ("strict", 2): 2, ("kind", 1): 2,
    }  # fmt: skip
    assert all(each.in_force for each in open_batches(project.workspace))
    # What is in a batch is asked by nobody, in whatever way.
    assert project.graded() == {}
    assert try_grades(project.workspace, 5, "strict").frame.is_empty()
    assert all("failed grades@strict" in why for why in lost_scores(project.workspace, list(ROWS)).values())
    server.hold = False
    assert project.graded() == {}
    assert open_batches(project.workspace) == [] and lost_scores(project.workspace, list(ROWS)) == {}
    # The money is each judge's own, in batches too.
    calls = Ledger.of(project.workspace).calls(price=project.workspace.settings.prices)
    assert calls.filter(judge="strict")["usd"].sum() == pytest.approx((ALL + 4) * 0.055 + calls_of_probes(calls))
    of_kind = calls.filter(judge="kind")
    assert of_kind.height >= ALL and of_kind["usd"].count() == 0  # nobody said what it costs
    # Rows of both sources are graded by both rubrics, and the pool reads each judge's grades as one table.
    index = build_index(project.workspace, list(ROWS), JUDGES)
    assert set(index.stores) == JUDGES and scores_are_sound(project.workspace, JUDGES).passed
    both = index.frame.filter(pl.col("sources").list.len() == 2)["sample_id"][0]
    told = [(score.kind, score.in_force, score.asked_by) for score in story(project.workspace, both, list(ROWS)).scores]
    assert sorted(each for each in told if each[2]) == [
        ("grades", False, ("y",)), ("grades", False, ("y",)),
        ("grades@kind", True, ("x",)), ("grades@strict", True, ("x",)),
    ]  # fmt: skip
    spec = project.workspace.settings.coresets["best"]
    assert grades_needed(project.workspace, spec.grade).graded == ALL - 1
    # They say the same again; on the rows of y, strict is graded by tales.
    compared = compare_grades(project.workspace, "strict", "strict")
    assert (compared.rows, compared.agreement.exact) == (len({*ids_repeated(project)}), 1.0)
    assert compare_grades(project.workspace, "strict", "kind").rows == ALL - 1
    of_y = {(pair.first, pair.second): pair.agreement for pair in agreements_of(project.workspace, "y", JUDGES)}
    assert of_y["strict", "strict"].rows == 2 and of_y["kind", "strict"].rows == 2
    assert of_y["kind", "strict"].mean_difference == pytest.approx(1 - mean_of(project, "grades@kind", "y"))


def calls_of_probes(calls: pl.DataFrame) -> float:
    """Dollars of the small questions before batches."""
    return float(calls.filter(~pl.col("call_id").str.starts_with("batch-"), judge="strict")["usd"].sum())


def ids_repeated(project: Project) -> list[str]:
    """The two of each source with the lowest ids; a sample of both counts for x, as it is compared."""
    held = {source: rows.samples["sample_id"].sort() for source, rows in project.landed.items()}
    return [each for source, ids in held.items() for each in ids.head(2) if source == "x" or each not in held["x"]]


def mean_of(project: Project, kind: str, source: str) -> float:
    workspace = project.workspace.of_source(source)
    return float(store_of(workspace, kind).read(project.landed[source].samples.select("sample_id"))["grade"].mean())  # type: ignore[arg-type]


def test_what_was_bought_of_a_judge_is_combined_anew_by_it_alone(project: Project, server: BatchServer) -> None:
    server.hold = False
    criteria = {"criteria": {"facts": "Facts.", "tone": "Tone."}, "mode": "live", "repeat": None, "repeat_rows": 50}
    project.settings(**criteria)
    assert project.graded() == {"judge-1": ALL, "judge-2": ALL}
    project.settings(**criteria, combine="min", max_tokens=99)
    assert project.graded() == {}
    ids = project.landed["x"].samples.select("sample_id")
    store = store_of(project.workspace.of_source("x"), "grades@strict")
    assert store.read(ids)["rating"].to_list() == [2.0] * 3
    project.settings(**criteria | {"repeat": 3, "repeat_rows": 1})
    assert project.graded() == {"judge-1": 4}
    project.settings(**criteria | {"repeat": 3, "repeat_rows": 1}, combine="min")  # nor are repeats bought again
    assert project.graded() == {}


def test_a_rubric_of_no_source_is_said(project: Project) -> None:
    project.settings(rubrics={"z": "tales.md"})
    with pytest.raises(DselectError, match=r"graders.strict.rubrics: there is no source `z`; there are: x, y"):
        load_settings(project.folder / "dselect.yaml")


def test_candidates_alone_are_graded_by_one_grader(project: Project) -> None:
    project.settings(candidates="only")
    with pytest.raises(DselectError, match=r"graders.strict.candidates: `only` buys the grades of one grader"):
        load_settings(project.folder / "dselect.yaml")


def test_names_and_turns_stay_with_a_copy(project: Project) -> None:
    strict = project.workspace.settings.grader_of("strict").again(2)
    assert (strict.live.of_source("y").name, strict.live.of_source("y").turn) == ("strict", 2)
    changed = Workspace(project.workspace.settings.with_graders([strict])).settings
    assert changed.grader_of("strict").turn == 2 and changed.grader_of("kind").turn == 1
