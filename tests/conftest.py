"""What every test gets: no hub, no telemetry, no settings of the person who runs them, and a core to itself."""

import os
from typing import Any

import pytest

from tests.cases import CASES

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each use all cores wait for one another most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSELECT_CONFIG", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded (`record_property`): a worker has no terminal to print to."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    terminalreporter.write_line(f"random cases of each comparison with brute force: {CASES} (DSELECT_CASES)")
