"""A run that fails: its own sentence stands first, and it is tried again only where that may help."""

import json
import socket
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dselect_core.settings.settings import load_settings
from dselect_dagster.dagster_private import run_assets
from dselect_dagster.defs import run_policy
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.defs.run_tags import COMMAND


def land(folder: Path, rows: str, tags: dict[str, str] | None = None, **settings: Any) -> list[dg.DagsterEvent]:
    """The events of a run that lands a source of this text and fails."""
    (folder / "a.json").write_text(rows)
    held = {"sources": {"a": {"path": "a.json"}}, "coresets": {}}
    (folder / "dselect.yaml").write_text(yaml.safe_dump(held | settings))
    defs = build_definitions(load_settings(folder / "dselect.yaml"), str(folder / "dselect.yaml"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("source", ["a"])
        asset = [dg.AssetKey("raw_dataset")]
        done = run_assets(defs, instance, asset, "a", tags=tags, raise_on_error=False)
        assert not done.success
        return done.all_events


def sentence(events: list[dg.DagsterEvent]) -> str:
    """What the UI shows of the step that failed."""
    (failure,) = (event for event in events if event.is_step_failure)
    data = failure.step_failure_data
    assert data.error is not None and data.user_failure_data is not None
    said = data.user_failure_data.description
    # Nothing stands in front of it, and no cause below it says something else.
    assert said and data.error.message.strip() == f"{dg.Failure.__module__}.Failure: {said}"
    assert data.error.cause is None and data.error.stack
    return said


def tries(events: list[dg.DagsterEvent]) -> int:
    return sum(event.event_type == dg.DagsterEventType.STEP_START for event in events) + sum(
        event.event_type == dg.DagsterEventType.STEP_RESTARTED for event in events
    )


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_policy, "RETRIES", dg.RetryPolicy(max_retries=2))


def test_a_bad_source_says_so_first_and_is_not_tried_again(tmp_path: Path, nobody_waits: None) -> None:
    # A source on S3 beside it gives the landing a retry policy.
    sources = {"a": {"path": "a.json"}, "far": {"path": "s3://bucket/a.json"}}
    events = land(tmp_path, "{ not json", sources=sources)
    assert sentence(events).startswith(f"{tmp_path / 'a.json'}: ")
    assert tries(events) == 1


def test_a_storage_that_does_not_answer_says_so_first_and_is_tried_again(
    tmp_path: Path, nobody_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
    once = {"retries": {"total_max_attempts": 1}, "connect_timeout": 2}
    away = {"storage": "s3://tables/out", "storage_options": {"endpoint_url": address, "config_kwargs": once}}
    rows = json.dumps([{"instruction": "Say a", "input": "", "output": "a"}])
    events = land(tmp_path, rows, **away)
    said = sentence(events)
    assert said.startswith("the object store does not answer: ") and address in said
    assert tries(events) == 3
    # Who watches is told at once, and tries again when it is mended.
    assert tries(land(tmp_path, rows, tags={COMMAND: "refresh"}, **away)) == 1
