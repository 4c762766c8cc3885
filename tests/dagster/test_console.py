"""Text with brackets is printed as it is: in lines, tables, bars and the story of a sample."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from dselect_core.lineage.explain import Score, Story
from dselect_core.lineage.plan import Plan, Step
from dselect_core.settings.settings import Settings
from dselect_dagster.cli import progress_bars, render
from dselect_dagster.cli.console import make_console, styled

# A closing tag without its opening one makes rich raise; the others vanish from what it prints.
BRACKETS = ["[/INST]", "[red]", "data/[abc]*.json", "[link=x]", "\\[bold]", ":warning:"]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    console = make_console(width=200)
    console.file = text
    monkeypatch.setattr(render, "out", console)
    return text


@pytest.mark.parametrize("text", BRACKETS)
def test_in_lines_and_in_parts_of_lines(text: str) -> None:
    file = io.StringIO()
    console = make_console(width=200)
    console.file = file
    console.print(text)
    console.print(styled("source ", (text, "bold"), f": {text}"))
    assert file.getvalue().splitlines() == [text, f"source {text}: {text}"]


@pytest.mark.parametrize("text", BRACKETS)
def test_in_a_plan(text: str, printed: io.StringIO) -> None:
    recipes = {"r": {"strategy": "random", "budget": 1}}
    settings = Settings.model_validate({"sources": {"a": {"path": "a.json"}}, "coresets": recipes})
    step = Step("raw_dataset", f"p {text}", f"why {text}")
    render.print_plan(Plan([step], [], {f"name {text}": f"problem {text}"}), settings)
    for part in ("p", "why", "name", "problem"):
        assert f"{part} {text}" in printed.getvalue()


@pytest.mark.parametrize("text", BRACKETS)
def test_in_the_story_of_a_sample(text: str, printed: io.StringIO) -> None:
    written = datetime(2026, 1, 1, tzinfo=UTC)
    score = Score("difficulty", {"difficulty": text}, {"rubric": text}, "f" * 12, written, True)
    story = Story(
        "0" * 32,
        [{"role": "user", "content": f"<s>[INST] Hi {text}"}],
        [{"source": "a", "file": f"data/{text}", "row": 3}],
        None,
        [score],
        [],
        {"a": "train"},
    )
    render.print_story(story)
    for line in (f"  user: <s>[INST] Hi {text}", f"  a: data/{text}, row 3", f"    | {text}", f"    difficulty {text}"):
        assert line in printed.getvalue().splitlines()


@pytest.mark.parametrize("text", BRACKETS)
def test_in_progress_bars(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr(progress_bars, "err", terminal)
    with progress_bars.ProgressBars() as bars:
        bars.start_run("score_source")
        bars._update(f"difficulty of {text}", 1, 2, 0)
    assert f"difficulty of {text}" in terminal.file.getvalue()  # type: ignore[attr-defined]
