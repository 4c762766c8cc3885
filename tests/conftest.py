"""What every test gets: no hub, no telemetry, no settings of the person who runs them."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSELECT_CONFIG", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
