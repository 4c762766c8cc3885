"""What is shown of trials: the table, the pictures and the page, from hand-made reports, with names that act."""

import re
from pathlib import Path
from typing import Any

import pytest

from dselect_core.html_page import png
from dselect_core.redact import remember
from dselect_core.settings.settings import Settings
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.compare import (
    PLOT_WIDTH,
    Compared,
    against_random_text,
    compare,
    eval_sources,
    interval_line,
    multiplier_text,
    scale_of,
)
from dselect_core.trials.compare_page import comparison_page
from dselect_core.trials.figure import against_random, interval_half_width, loss_against_budget, loss_by_set
from dselect_core.trials.report import ALL, AgainstRandom, Multiplier, TrialReport, write_report

HOSTILE = "<script>alert(1)</script>\"'&$x^2$\x1b[2J\u202e|`"
MULTIPLIER = Multiplier(1.8, 1.2, 2.6, "", "random needs 1.80 times the rows")


def report(recipe: str = "d3", better_by: float = 0.02, half_width: float = 0.008, **changed: Any) -> TrialReport:
    """Losses of 2.0 for random and less for more of it, on two eval sources; the coreset is better by so much."""
    word = "better" if better_by > half_width else "worse" if better_by < -half_width else "no difference"
    rows = []
    for name, factor, loss in (
        ("coreset", 1, 2.0 - better_by),
        ("random", 1, 2.0),
        ("random x2", 2, 1.97),
        ("random x4", 4, 1.95),
        ("untuned", 0, 9.0),
    ):
        for source in (ALL, "held", "law"):
            against = None if name == "coreset" else 0.02
            sizes = {"runs": 3 if factor else 0, "rows": 120 * factor, "tokens": 9000 * factor}
            difference = {"better_by": against, "low": against, "high": against}
            rows.append({"set": name, "eval": source, "metric": "loss", "mean": loss, "sd": 0.004} | sizes | difference)
    verdict = AgainstRandom(word, better_by, half_width, f"{word} than random")  # type: ignore[arg-type]
    whole: dict[str, Any] = {
        "recipe": recipe, "strategy": "d3", "budget": "10%", "version": "v", "coreset": "c", "table": rows,
        "against_random": verdict, "multiplier": MULTIPLIER, "tuned": 7, "reused": 2, "measured": 20, "tokens": 1234,
        "seconds": 3.5, "model": "builtin", "notes": [],
    }  # fmt: skip
    return TrialReport(**(whole | changed))


def of(found: TrialReport | None, recipe: str = "d3", note: str = "") -> Compared:
    return Compared(recipe, "d3", "10%", found, note)


def test_the_figures_of_a_report_as_text() -> None:
    assert against_random_text(report()) == "+0.0200 ± 0.0080 better"
    assert against_random_text(report(better_by=-0.0012)) == "-0.0012 ± 0.0080 no difference"
    assert multiplier_text(report()) == "1.8x (1.2 to 2.6)"
    assert multiplier_text(report(multiplier=Multiplier(4.0, 2.0, 4.0, "at least", ""))) == "at least 4x"
    assert multiplier_text(report(multiplier=None)) == ""
    compared = of(report())
    assert (compared.rows, compared.tokens, compared.loss("held"), compared.loss("else")) == (120, 9000, 1.98, None)
    assert (of(None).rows, of(None).loss(ALL)) == (None, None)
    assert eval_sources([compared, of(None)]) == [ALL, "held", "law"]
    lone = report(table=[row for row in report().table if row["eval"] != "law"])
    assert eval_sources([of(lone)]) == ["held"]


@pytest.mark.parametrize(
    ("better_by", "half_width", "line"),
    [
        (0.02, 0.01, "···············┆····├────●────┤"),
        (-0.02, 0.01, "├────●────┤····┆···············"),
        (0.0, 0.03, "├──────────────●──────────────┤"),
        (0.03, 0.0, "···············┆··············●"),
    ],
)
def test_an_interval_is_drawn_where_it_lies(better_by: float, half_width: float, line: str) -> None:
    drawn = interval_line(report(better_by=better_by, half_width=half_width), 0.03)
    assert len(drawn) == PLOT_WIDTH
    assert drawn == line


def test_the_axis_holds_every_interval_and_a_single_point() -> None:
    assert scale_of([of(report()), of(report(better_by=-0.05)), of(None)]) == pytest.approx(0.058)
    assert scale_of([of(None)]) == 0.0
    assert "●" in interval_line(report(better_by=0.0, half_width=0.0), 0.0)


def test_the_interval_of_a_mean_is_students() -> None:
    assert interval_half_width(0.01, 3) == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert interval_half_width(None, 1) is None
    assert interval_half_width(0.0, 1) is None


@pytest.mark.parametrize("recipe", ["d3", HOSTILE, "名" * 80])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_pictures_are_drawn_whatever_the_names_are(recipe: str) -> None:
    found = report(recipe)
    for row in found.table:
        row["eval"] = recipe if row["eval"] == "held" else row["eval"]
    for figure in (loss_by_set(found), loss_against_budget(found), against_random([found])):
        assert png(figure).startswith(b"\x89PNG")
    lone = report(table=[row | {"sd": None, "runs": 1} for row in found.table if row["set"] in ("coreset", "random")])
    assert png(loss_by_set(lone)).startswith(b"\x89PNG")
    one = report(table=[row for row in report().table if row["eval"] != "law"])
    assert [len(loss_by_set(each).axes) for each in (report(), one)] == [3, 1]
    assert loss_against_budget(report(table=[row for row in found.table if row["set"] == "coreset"])) is None


def test_the_untuned_model_does_not_squeeze_the_bars() -> None:
    left, right = loss_by_set(report()).axes[0].get_xlim()
    assert 1.9 < left < right < 2.1


def test_a_page_is_whole_and_nothing_in_it_acts_or_is_fetched() -> None:
    remember("hunter2secret")
    notes = [f"not tuned on {HOSTILE}", "key hunter2secret"]
    hostile = report(HOSTILE, model=f"https://me:pw@host/{HOSTILE}", strategy=HOSTILE, notes=notes)
    for row in hostile.table:
        row["eval"] = HOSTILE if row["eval"] == "held" else row["eval"]
    compared = [of(hostile, HOSTILE, HOSTILE), of(None, "later", "not tried yet")]
    page = comparison_page(compared, TrialsSpec(model=HOSTILE), "1.0")
    tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([a-zA-Z!][\w-]*)", page)}
    known = "!doctype html head meta title style body h1 h2 p strong em table tr th td ul li img"
    assert tags <= set(known.split())
    assert set(re.findall(r'<img[^>]* src="([^"]{11})', page)) == {"data:image/"}
    assert not re.search(
        r"\bon\w+\s*=|javascript:|<[^>]*\bhref\b", re.sub(r"&[^;]+;", "", page.lower()).replace("alert", "")
    )
    assert "http" not in re.sub(r"<[^>]*>|https://\*\*\*@host", "", page.replace("http-equiv", ""))
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "hunter2secret" not in page
    assert "pw@" not in page
    for said in ("1,234", "7, 2", "learning_rate", "seeds", "better than random", "not tried", "mean loss", "1.8x"):
        assert said in page


def workspace(folder: Path, **recipes: dict[str, Any]) -> Workspace:
    sources = {"a": {"path": "a.json"}, "held": {"path": "h.json", "role": "eval"}}
    return Workspace(Settings.model_validate({"storage": str(folder), "sources": sources, "coresets": recipes}))


def test_a_comparison_has_the_tried_recipes_best_first_and_says_what_does_not_hold(tmp_path: Path) -> None:
    tried = {"strategy": "random", "budget": 5, "trial": True}
    place = workspace(tmp_path, a=tried, b=tried, c=tried, d={**tried, "trial": False}, e={**tried, "trial": False})
    for recipe, better_by in {"a": -0.1, "b": 0.1, "d": 0.0}.items():
        write_report(report(recipe, better_by), place)
    compared = compare(place, {"a": "the model changed"})
    assert [each.recipe for each in compared] == ["b", "d", "a", "c"]
    notes = {each.recipe: each.note for each in compared}
    assert notes["c"] == "not tried yet"
    assert notes["d"].startswith("not tried any more")
    assert notes["a"] == "its coreset cannot be read"
