"""What every test gets: no hub, no telemetry, no settings of the person who runs them, and a core to itself."""

import os
import random
from typing import Any

import pytest

from tests.cases import CASES

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each use all cores wait for one another most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers inherit it: all of them must choose the same cases.
os.environ.setdefault("DSELECT_WALK_SEED", str(random.randrange(10**6)))


def pytest_configure(config: pytest.Config) -> None:
    """Declare our mark."""
    config.addinivalue_line(
        "markers", "walk(cases): of a slow parametrised test so many cases, drawn anew each run; DSELECT_WALKS=all: all"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw the cases of marked tests. What was drawn is told with the results."""
    if os.environ.get("DSELECT_WALKS") == "all":
        return
    walks: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("walk") is not None:
            walks.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out: set[str] = set()
    for name, cases in walks.items():
        mark = cases[0].get_closest_marker("walk")
        assert mark is not None
        count = min(len(cases), mark.args[0])
        drawn = random.Random(os.environ["DSELECT_WALK_SEED"] + name).sample(range(len(cases)), count)
        left_out |= {case.nodeid for number, case in enumerate(cases) if number not in drawn}
        cases[min(drawn)].user_properties.append((f"cases of {name}", f"{count} of {len(cases)}"))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSELECT_CONFIG", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded (`record_property`): a worker has no terminal to print to."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    terminalreporter.write_line(f"DSELECT_WALK_SEED={os.environ['DSELECT_WALK_SEED']} draws the same cases again")
    terminalreporter.write_line(f"random cases of each comparison with brute force: {CASES} (DSELECT_CASES)")
