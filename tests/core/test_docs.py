"""The documentation names what exists: links, anchors, paths in backticks; its generated page is the schema's."""

import re
from pathlib import Path

import pytest

from dselect_core.settings.reference import reference
from dselect_core.settings.settings import json_schema

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
_PATH = re.compile(r"`((?:dselect_core|dselect_dagster|demo|tests|benchmarks|docs)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for target, anchor in _LINK.findall(text):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in {_anchor(line) for line in path.read_text("utf-8").splitlines()}, f"{page.name}: {anchor}"
    for path in _PATH.findall(text):
        if path != "dselect_core/scores/redundancy.py":  # the file that docs/extending.md tells to make
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def _anchor(heading: str) -> str:
    return "#" + re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-") if heading[:1] == "#" else ""


def test_the_tree_of_contributing_names_files_that_exist() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[3]
    names = set(re.findall(r"[\w]+\.py", tree))
    files = {path.name for top in ("dselect_core", "dselect_dagster") for path in (ROOT / top).rglob("*.py")}
    assert len(names) > 30
    assert names <= files, names - files
    rooms = {path.parent.relative_to(ROOT).parts[1] for path in (ROOT / "dselect_core").glob("*/__init__.py")}
    assert all(f"  {room}/" in tree for room in rooms)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 950


def test_the_configuration_page_is_that_of_the_schema() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference(), f"run `python -m dselect_core.settings.reference {page.name}`"


def test_every_key_of_the_settings_is_described() -> None:
    schema = json_schema()
    objects = {"Settings": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, each in objects.items()
        for key, value in each["properties"].items()
        if not value.get("description")
    ]
    assert bare == []
