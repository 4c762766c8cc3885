"""What changed in a coreset, and why: each cause on a table small enough to see it, and which of two causes is told."""

import json
from typing import Any

import polars as pl
import pytest

from dselect_core.coreset.diff import SCHEMA, changes, counted
from dselect_core.select.rounding import SCORE_STEP


def pool(ranked: str, rest: str = "", unusable: str = "", **scores: float | None) -> pl.DataFrame:
    """A pool by the letters of its samples: those chosen, in their order, the others, and those without a score.

    scores: of single samples; any other usable one has 0.5.
    """
    rows = [
        {
            "sample_id": name,
            "reason": "no grade" if name in unusable else None,
            "grade": None if name in unusable else scores.get(name, 0.5),
            "chosen": ranked.index(name) + 1 if name in ranked else None,
        }
        for name in sorted(ranked + rest + unusable)
    ]
    schema = {"sample_id": pl.String, "reason": pl.String, "grade": pl.Float32, "chosen": pl.UInt32}
    return pl.DataFrame(rows, schema=schema)


def changed(before: pl.DataFrame, now: pl.DataFrame, *, recipe: bool = True, vectors: bool = True) -> pl.DataFrame:
    found = changes(before, now, same_recipe=recipe, same_vectors=vectors)
    assert found.schema == pl.Schema(SCHEMA)
    # Whatever happened: the ranks are those of the two coresets, and nothing is told of others.
    for table, rank in ((before, "rank_before"), (now, "rank")):
        ranks = found.drop_nulls(rank).select("sample_id", rank).sort("sample_id")
        assert ranks.rows() == table.drop_nulls("chosen").select("sample_id", "chosen").sort("sample_id").rows()
    told = found.select((pl.col("cause").is_null() == (pl.col("change") == "kept")).all())
    assert told.item() and found["sample_id"].is_unique().all()
    return found


def why(found: pl.DataFrame) -> dict[str, str | None]:
    """{sample: cause} of who came and left; those kept have none."""
    moved = found.filter(pl.col("change") != "kept")
    return {f"{'+' if change == 'entered' else '-'}{name}": cause for name, change, cause, *_ in moved.iter_rows()}


def test_nothing_changed_and_everybody_is_kept() -> None:
    same = pool("cab", "de", "f")
    assert changed(same, same).rows() == [
        ("c", "kept", None, 1, 1),
        ("a", "kept", None, 2, 2),
        ("b", "kept", None, 3, 3),
    ]


def test_a_new_row_entered_and_another_left_for_it() -> None:
    found = changed(pool("ab", "c"), pool("an", "bc"))
    assert found.rows() == [
        ("a", "kept", None, 1, 1),
        ("n", "entered", "new row", None, 2),
        ("b", "left", "other rows", 2, None),
    ]


def test_a_row_that_is_gone_left_and_the_next_came_up() -> None:
    found = changed(pool("abc", "d"), pool("bcd"))
    assert found.rows() == [
        ("b", "kept", None, 2, 1),
        ("c", "kept", None, 3, 2),
        ("d", "entered", "other rows", None, 3),
        ("a", "left", "row gone", 1, None),
    ]


def test_another_recipe() -> None:
    found = changed(pool("ab", "cd"), pool("cb", "ad"), recipe=False)
    assert why(found) == {"+c": "recipe", "-a": "recipe"}
    assert found.filter(pl.col("change") == "kept").rows() == [("b", "kept", None, 2, 2)]


def test_a_changed_score_moved_its_row_and_others_with_it() -> None:
    found = changed(pool("ab", "cd"), pool("cd", "ab", c=0.9))
    assert why(found) == {"+c": "changed score", "+d": "other rows", "-a": "other rows", "-b": "other rows"}
    found = changed(pool("ab", "c", a=0.9), pool("bc", "a", a=0.1))
    assert why(found) == {"-a": "changed score", "+c": "other rows"}


@pytest.mark.parametrize("steps", [-20, -2, -1.5, 1.5, 2, 20])
def test_a_score_is_another_one_beyond_the_step_of_the_grid(steps: float) -> None:
    # Under it lies the noise between two runs of a model.
    now = pool("b", "a", a=0.5 + steps * SCORE_STEP, b=0.5 + SCORE_STEP / 4)
    assert why(changed(pool("a", "b"), now)) == {"-a": "changed score", "+b": "other rows"}


def test_a_score_that_was_made_or_is_missing_is_a_changed_one() -> None:
    assert why(changed(pool("ab", "c", "d"), pool("ad", "bc"))) == {"+d": "changed score", "-b": "other rows"}
    assert why(changed(pool("ab", "c"), pool("ac", "", "b"))) == {"-b": "changed score", "+c": "other rows"}


def test_any_of_several_scores_may_have_changed() -> None:
    before = pool("ab", "cd").with_columns(upd=pl.Series([1.0, 1.0, 1.0, 1.0]), tokens=pl.Series([3, 4, 5, 6]))
    now = pool("cd", "ab").with_columns(upd=pl.Series([1.0, 1.1, 1.0, 1.0]), tokens=pl.Series([3, 4, 6, 6]))
    assert why(changed(before, now)) == {
        "+c": "changed score", "+d": "other rows", "-a": "other rows", "-b": "changed score"
    }  # fmt: skip
    # A score that only one of them had is no cause of its own: the strategy is another one then.
    assert set(why(changed(before, now.drop("upd", "tokens"))).values()) == {"other rows"}
    assert set(why(changed(before.drop("upd", "tokens"), now)).values()) == {"other rows"}


def test_other_vectors_changed_the_scores_of_all_rows_that_were_there() -> None:
    found = changed(pool("ab", "c"), pool("cn", "b"), vectors=False)
    assert why(found) == {"+c": "changed score", "+n": "new row", "-a": "row gone", "-b": "changed score"}


def test_a_larger_budget_buys_the_rows_beyond_the_smaller() -> None:
    found = changed(pool("ab", "cde"), pool("abcd", "e"))
    assert found.rows() == [
        ("a", "kept", None, 1, 1),
        ("b", "kept", None, 2, 2),
        ("c", "entered", "budget", None, 3),
        ("d", "entered", "budget", None, 4),
    ]
    assert why(changed(pool("", "abc"), pool("ab", "c"))) == {"+a": "budget", "+b": "budget"}


def test_a_smaller_budget_drops_the_rows_beyond_it() -> None:
    found = changed(pool("abcd", "e"), pool("ab", "cde"))
    assert found.rows() == [
        ("a", "kept", None, 1, 1),
        ("b", "kept", None, 2, 2),
        ("c", "left", "budget", 3, None),
        ("d", "left", "budget", 4, None),
    ]
    assert why(changed(pool("ab", "c"), pool("", "abc"))) == {"-a": "budget", "-b": "budget"}


def test_with_another_budget_a_rank_within_the_smaller_one_moved_because_of_others() -> None:
    # d stands where the smaller budget reached too, and c where the larger did not buy it for being larger.
    assert why(changed(pool("ab", "cde"), pool("adcb", "e"))) == {"+d": "other rows", "+c": "budget"}
    assert why(changed(pool("abcd", "e"), pool("ae", "bcd"))) == {
        "+e": "other rows", "-b": "other rows", "-c": "budget", "-d": "budget"
    }  # fmt: skip


def test_of_several_causes_the_first_is_told() -> None:
    # n is new and g gone, whatever else changed; s has another score, l is beyond the budget, o is neither.
    before, now = pool("gslo", "e", s=0.1), pool("ne", "slo", s=0.9, e=0.9)
    assert why(changed(before, now)) == {
        "+n": "new row", "+e": "changed score",
        "-g": "row gone", "-s": "changed score", "-l": "budget", "-o": "budget",
    }  # fmt: skip
    for vectors in (True, False):
        assert why(changed(before, now, recipe=False, vectors=vectors)) == {
            "+n": "new row", "+e": "recipe", "-g": "row gone", "-s": "recipe", "-l": "recipe", "-o": "recipe"
        }  # fmt: skip
    assert why(changed(before, now, vectors=False)) == {
        "+n": "new row", "+e": "changed score",
        "-g": "row gone", "-s": "changed score", "-l": "changed score", "-o": "changed score",
    }  # fmt: skip
    # Beyond the budget and another score: the score.
    assert why(changed(pool("a", "bc"), pool("abc", c=0.9))) == {"+b": "budget", "+c": "changed score"}
    assert why(changed(pool("abc", c=0.9), pool("a", "bc"))) == {"-b": "budget", "-c": "changed score"}
    # New, and beyond what was bought before: new.
    assert why(changed(pool("a"), pool("an"))) == {"+n": "new row"}


def test_a_row_that_was_kept_has_no_cause_whatever_changed() -> None:
    found = changed(pool("ab", a=0.1), pool("ba", a=0.9), recipe=False, vectors=False)
    assert found.rows() == [("b", "kept", None, 2, 1), ("a", "kept", None, 1, 2)]


def test_who_is_in_comes_by_rank_and_then_who_left_by_the_rank_they_had() -> None:
    found = changed(pool("dxcybza"), pool("bnacdm", "xyz"))
    assert "".join(found["sample_id"]) == "bnacdm" + "xyz"
    assert found["rank"].to_list() == [1, 2, 3, 4, 5, 6, None, None, None]
    assert found["rank_before"].to_list() == [5, None, 7, 3, 1, None, 2, 4, 6]
    # The order of the rows given has no part in it.
    assert changed(pool("dxcybza").reverse(), pool("bnacdm", "xyz").sample(fraction=1, shuffle=True, seed=1)).equals(
        found
    )


def test_pools_without_a_row() -> None:
    nobody = pool("")
    assert changed(nobody, nobody).is_empty()
    assert why(changed(nobody, pool("a", "b"))) == {"+a": "new row"}
    assert why(changed(pool("a", "b"), nobody)) == {"-a": "row gone"}


def test_rows_that_were_never_chosen_are_not_told_of() -> None:
    assert changed(pool("a", "bcd", "e"), pool("a", "cdn", "b", c=0.9))["sample_id"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (pool("gaslo", "e", s=0.1), pool("nae", "slo", s=0.9), {
            "entered": {"new row": 1, "other rows": 1},
            "left": {"budget": 2, "changed score": 1, "row gone": 1},
            "kept": 1,
        }),
        (pool("abc"), pool("abc"), {"entered": {}, "left": {}, "kept": 3}),
        (pool(""), pool("ab"), {"entered": {"new row": 2}, "left": {}, "kept": 0}),
        (pool(""), pool(""), {"entered": {}, "left": {}, "kept": 0}),
    ],
)  # fmt: skip
def test_rows_are_counted_by_change_and_cause(
    before: pl.DataFrame, now: pl.DataFrame, expected: dict[str, Any]
) -> None:
    found = counted(changed(before, now))
    assert found == expected
    assert [list(found[change]) for change in ("entered", "left")] == [sorted(found["entered"]), sorted(found["left"])]
    assert json.loads(json.dumps(found)) == found  # as the manifest holds it
