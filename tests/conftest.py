"""What every test gets: no hub, no telemetry, no settings of the person who runs them, and a core to itself."""

import os
import random
from collections.abc import Callable
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
    """Declare our marks."""
    drawn = "drawn anew each run; DSELECT_WALKS=all: all"
    config.addinivalue_line("markers", f"walk(cases): of a slow parametrised test so many cases, {drawn}")
    config.addinivalue_line("markers", f"some(tests): of a slow file so many tests, cases counted singly, {drawn}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw the cases and tests of marked ones. What was drawn is told with the results."""
    if os.environ.get("DSELECT_WALKS") == "all":
        return
    left_out = _draw_files(items)
    items_left = [item for item in items if item.nodeid not in left_out]
    left_out |= _draw(items_left, "walk", "cases of", lambda item: item.nodeid.partition("[")[0])
    items_left = [item for item in items if item.nodeid not in left_out]
    left_out |= _draw(items_left, "some", "tests of", lambda item: item.nodeid.partition("::")[0])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


E2E_FILES = 22
"""So many files of tests/e2e are drawn where all are asked for, beside those that always run: all take an hour."""

ALWAYS = {f"tests/e2e/test_{name}.py" for name in ("builtin_corpus", "cli", "histories", "row_by_row")}


def _draw_files(items: list[pytest.Item]) -> set[str]:
    """The ids of the items in those files of tests/e2e that are left out; none where somebody asks for a few files."""
    files = sorted({file for item in items if (file := item.nodeid.partition("::")[0]).startswith("tests/e2e/")})
    drawn_from = [file for file in files if file not in ALWAYS]
    if len(drawn_from) <= E2E_FILES:
        return set()
    drawn = {*ALWAYS, *random.Random(os.environ["DSELECT_WALK_SEED"]).sample(drawn_from, E2E_FILES)}
    left_out = {item.nodeid for item in items if item.nodeid.partition("::")[0] in set(files) - drawn}
    told = next(item for item in items if item.nodeid not in left_out)
    told.user_properties.append(("files of tests/e2e", f"{len(drawn & set(files))} of {len(files)}"))
    return left_out


def _draw(items: list[pytest.Item], mark: str, told: str, group_of: Callable[[pytest.Item], str]) -> set[str]:
    """The ids of the items that are left out, by the number that the mark gives for their group."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker(mark) is not None:
            groups.setdefault(group_of(item), []).append(item)
    left_out: set[str] = set()
    for name, members in groups.items():
        marker = members[0].get_closest_marker(mark)
        assert marker is not None
        count = min(len(members), marker.args[0])
        drawn = random.Random(os.environ["DSELECT_WALK_SEED"] + name).sample(range(len(members)), count)
        left_out |= {member.nodeid for number, member in enumerate(members) if number not in drawn}
        members[min(drawn)].user_properties.append((f"{told} {name}", f"{count} of {len(members)}"))
    return left_out


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
