"""The documentation names what exists: links, anchors, paths in backticks; its generated page is the schema's."""

import re
from pathlib import Path

import pytest

from dselect_core.settings.reference import reference
from dselect_core.settings.settings import json_schema

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
_PATH = re.compile(r"(?<![\w/.-])(?:dselect_core|dselect_dagster|demo|tests|benchmarks|docs)/[\w./-]*\w")
_MODULE = re.compile(r"python -m ((?:dselect_core|dselect_dagster|demo|benchmarks)[\w.]*)")
TO_BE_MADE = "dselect_core/scores/redundancy.py"  # docs/extending.md tells the reader to make it

HOMES = {
    "mask of the response": "dselect_core/lm/render.py",
    "the rule that it continues": "dselect_core/select/saved_order.py",
    "what makes a run start": "dselect_dagster/defs/automation_condition.py",
    "a part becomes visible here": "dselect_core/storage/score_store.py",
    "the price of a grade": "dselect_core/lineage/cost_estimates.py",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for target, anchor in _LINK.findall(text):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in {_anchor(line) for line in path.read_text("utf-8").splitlines()}, f"{page.name}: {anchor}"
    for path in _PATH.findall(re.sub(r"\]\([^)]*\)", "]", text)):  # links are relative to their page
        assert path == TO_BE_MADE or (ROOT / path).exists(), f"{page.name} names {path}"
    for module in _MODULE.findall(text):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), f"{page.name} runs {module}"


def _anchor(heading: str) -> str:
    return "#" + re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-") if heading[:1] == "#" else ""


def test_the_tree_of_contributing_names_files_where_they_are() -> None:
    named = _tree()
    assert len(named) > 60
    for path, _ in named:
        assert (ROOT / path).is_file(), f"CONTRIBUTING.md's tree has {path}"
    tree = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[3]
    packages = ("dselect_core", "dselect_dagster")
    rooms = [path.parent.name for package in packages for path in (ROOT / package).glob("*/__init__.py")]
    assert [room for room in rooms if f"\n  {room}/ " not in tree] == []


@pytest.mark.parametrize("words", HOMES)
def test_the_tree_says_where_it_is(words: str) -> None:
    lines = {line for _, line in _tree() if words in line}
    assert len(lines) == 1, f"{words!r} is in {len(lines)} lines of CONTRIBUTING.md's tree"
    assert HOMES[words] in [path for path, line in _tree() if line in lines]


def _tree() -> list[tuple[str, str]]:
    """The files that CONTRIBUTING.md's tree names, each with its path and its line."""
    named, top, room = [], "", ""
    for line in (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[3].splitlines():
        if match := re.match(r"(\w+)/", line):
            top, room = f"{match[1]}/", ""
        elif match := re.match(r"  (\w+)/ ", line):
            room = f"{match[1]}/"
        elif re.match(r"  \w+\.py", line):
            room = ""
        for name in re.findall(r"(?<![\w/])\w+\.(?:py|md)\b", line):
            named.append((f"{top}{room}{name}", line))
    return named


def test_each_claim_about_security_names_a_test_that_exists() -> None:
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    claims = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| ---"))]
    assert len(claims) > 10
    for claim in claims:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", claim)
        assert tests, f"no test: {claim}"
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), f"{file} has no {name}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


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
