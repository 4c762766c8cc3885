"""Sources that are landed and graded by a judge on loopback, without Dagster: what a change buys, in milliseconds."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.kinds import kind_of
from dselect_core.lineage.plan import Step
from dselect_core.lineage.plan_grades import with_grader
from dselect_core.pool.corpus_index import build_index
from dselect_core.pool.future_pool import FuturePool, SourceRows
from dselect_core.pool.pool_tables import pool_scores
from dselect_core.scores.update import todos_of_sources, update_scores
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata
from tests.openai_server import OpenAIServer, Request

GRADES = frozenset({"grades"})


class Graded:
    """A project in a folder. rows: {source: its texts}; a text in two sources is one sample."""

    def __init__(self, folder: Path, server: OpenAIServer, rows: dict[str, list[str]]) -> None:
        self.folder, self.server, self.rows = folder, server, rows
        self.grader: dict[str, Any] = {}

    def settings(self, **grader: Any) -> None:
        """Write dselect.yaml with this grader at the server's address."""
        held = {"base_url": self.server.base_url, "model": "judge-1", "max_retries": 0}
        written = {
            "sources": {source: {"path": f"{source}.json"} for source in self.rows},
            "coresets": {"best": {"strategy": "topk:grade", "budget": 4}},
            "grader": held | grader,
        }
        (self.folder / "dselect.yaml").write_text(json.dumps(written))

    @property
    def workspace(self) -> Workspace:
        return Workspace(load_settings(self.folder / "dselect.yaml"))

    def land(self) -> None:
        for source, texts in self.rows.items():
            table = [{"instruction": f"Say {text}", "input": "", "output": f"{text} it is."} for text in texts]
            (self.folder / f"{source}.json").write_text(json.dumps(table))
            land_source(self.workspace, source)

    def update(self, *sources: str) -> list[Request]:
        """Land all and grade what lacks a grade, of all sources by default: the calls that the server saw."""
        self.land()
        before = len(self.server.requests)
        for source in sources or self.rows:
            update_scores(self.workspace, source, GRADES)
        return self.server.requests[before:]

    def bought(self) -> list[Request]:
        """Grade all that lacks a grade: the calls that the server saw, as many as a plan foresees. Again: none."""
        self.land()
        workspace, kind, before = self.workspace, kind_of("grades"), len(self.server.requests)
        rows = self.landed
        planned = sum(todo.missing_rows.height for todo in todos_of_sources(workspace, kind, rows, None).values())
        computed = sum(update_scores(workspace, source, GRADES)["grades"].computed for source in rows)
        asked = self.server.requests[before:]
        assert len(asked) == planned == computed
        assert all(todo.why is None for todo in todos_of_sources(workspace, kind, rows, None).values())
        return asked

    @property
    def landed(self) -> dict[str, SourceRows]:
        tables = {source: read_with_metadata(self.workspace.samples(source)) for source in self.rows}
        return {source: SourceRows(samples, metadata["version"]) for source, (samples, metadata) in tables.items()}

    def estimated(self, source: str) -> tuple[int, int]:
        """Prompt and completion tokens that a plan says of the grades that a source lacks."""
        workspace, rows = self.workspace, self.landed
        todo = todos_of_sources(workspace, kind_of("grades"), rows, None)[source]
        step = with_grader(Step("", source, ""), [todo], workspace, FuturePool(workspace, rows))
        return step.bought[None].prompt_tokens, step.bought[None].completion_tokens

    def grades(self) -> pl.DataFrame:
        """The grades of the pool, by id, with the text of each sample and its sources."""
        index = build_index(self.workspace, list(self.rows), GRADES)
        samples = [read_with_metadata(self.workspace.samples(source))[0] for source in self.rows]
        texts = pl.concat(samples).unique("sample_id").select("sample_id", text=_FIRST)
        scores = pool_scores(self.workspace, index, "grades")
        return scores.join(index.frame, on="sample_id").join(texts, on="sample_id").sort("sample_id")


_FIRST = pl.col("messages").list.first().struct.field("content").str.strip_prefix("Say ")
