"""A coreset as one HTML page: whether it beats random, what came and left, how it lies in its pool, its first rows.

Made of what `make_coreset` has in hand, so nothing is selected again. The trial comes after the coreset: its part
stands between two marks, and is put in later without making the rest again. Trade-off: texts of rows are shown, cut, so
the page is as confidential as the corpus.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from dselect_core import html_page
from dselect_core.coreset.coreset import Coreset, first_moved
from dselect_core.coreset.diff import by_cause, by_change
from dselect_core.coreset.export import counted_reasons
from dselect_core.corpus.sample import message_text
from dselect_core.kinds import all_kinds
from dselect_core.reports import figures
from dselect_core.reports.spread import CHOSEN_ROWS, POOL_ROWS, Spread
from dselect_core.select.strategies import strategy_with_options
from dselect_core.trials.compare_page import trial_part
from dselect_core.trials.standing import Standing
from dselect_core.version import __version__

_TRIAL, _END = "<!-- trial -->\n", "<!-- end of trial -->\n"
_FIRST = 20
_CUT = 300


def coreset_page(recipe: str, made: Coreset, spread: Spread | None, tried: Standing) -> str:
    """The page. spread: of its vectors, None where the pool has none; tried: the recipe's trial as it stands."""
    return html_page.page(f"Coreset {recipe}", _parts(made, spread, tried), __version__)


def with_trial(page: str, tried: Standing) -> str | None:
    """The page with another trial in it; None where the page has no place for one: make it again."""
    start, end = page.find(_TRIAL), page.find(_END)
    if start < 0 or end < start:
        return None
    return page[:start] + _trial(tried) + page[end + len(_END) :]


def _parts(made: Coreset, spread: Spread | None, tried: Standing) -> Iterator[str]:
    yield _trial(tried)
    yield _warnings(made)
    yield "<h2>What was chosen</h2>\n"
    yield _facts(made)
    yield from _sources(made)
    yield from _changes(made)
    yield from _pictures(made, spread)
    yield "<h2>The first rows</h2>\n"
    yield _rows(made, made.selection.order.head(_FIRST).select("sample_id", "rank", "gain"))
    yield from _narrowly_missed(made)
    yield from _left_out(made)


def _trial(tried: Standing) -> str:
    part = f"<h2>Against random</h2>\n<p>{html_page.text(tried.why)}</p>\n"
    if tried.report is not None:
        part = "<h2>Against random</h2>\n" + trial_part(tried.report, tried.why)
    return _TRIAL + part + _END


def _warnings(made: Coreset) -> str:
    return "".join(f'<p class="worse">{html_page.text(told)}</p>\n' for told in made.selection.composition.collapsed)


def _facts(made: Coreset) -> str:
    spec, options = made.spec, strategy_with_options(made.spec.strategy, made.spec.options).option_values
    given: list[tuple[str, Any]] = [("strategy", spec.strategy), ("budget", str(spec.budget)), ("seed", spec.seed)]
    given += [(name, str(value)) for name, value in options.items()]
    counted = [(name.replace("_", " "), value) for name, value in made.counts.items()]
    searched = [(f"search: {name}", value) for name, value in made.selection.facts.items()]
    return html_page.table(["", ""], [*given, *counted, *searched, ("version", made.version)])


def _sources(made: Coreset) -> Iterator[str]:
    found, mixture = made.selection.composition, made.selection.mixture
    for frame in (found.by_source, found.lengths, mixture):
        if frame is not None:
            yield html_page.table([name.replace("_", " ") for name in frame.columns], frame.iter_rows())


def _changes(made: Coreset) -> Iterator[str]:
    if made.last_moved is None:
        return
    yield "<h2>What came, left and why</h2>\n"
    counts = by_change(made.last_moved)
    yield f"<p>When it changed last: {', '.join(f'{count:,} {change}' for change, count in counts.items())}.</p>\n"
    moved = made.last_moved.filter(pl.col("cause").is_not_null())
    if moved.is_empty():
        return
    causes = by_cause(moved)
    yield html_page.table(causes.columns, causes.iter_rows())
    yield _rows(made, first_moved(moved).select("sample_id", "change", "cause", "rank_before", "rank"))


def _pictures(made: Coreset, spread: Spread | None) -> Iterator[str]:
    order, pool = made.selection.order, made.pool.scores
    yield "<h2>How it lies in its pool</h2>\n"
    if (drawn := figures.curves(order["gain"], spread)) is not None:
        yield html_page.picture(drawn, "gain by rank, and distance of the pool to the nearest chosen row")
    columns = [
        column
        for column in _columns(made)
        if column in order.columns and column in pool.columns and order[column].drop_nulls().len()
    ]
    if (drawn := figures.against_pool(pool, order, columns)) is not None:
        yield html_page.picture(drawn, "chosen against pool, by score and length")
    if spread is None:
        yield "<p>No map: no recipe has embeddings made, or they are not of one model.</p>\n"
        return
    yield html_page.picture(figures.map_of(spread), "map of the embeddings")
    yield (
        f"<p>Curve and map show {len(spread.pool):,} samples of the pool (drawn, {POOL_ROWS:,} at most) and the first "
        f"{len(spread.chosen):,} chosen rows ({CHOSEN_ROWS:,} at most). The map is a projection: what is near in it "
        "need not be near.</p>\n"
    )


def _columns(made: Coreset) -> list[str]:
    """What the recipe ranks by, then the lengths, then the values of the other scores that came along."""
    own = strategy_with_options(made.spec.strategy, made.spec.options).columns
    return list(dict.fromkeys([*own, "response_tokens", *(kind.value for kind in all_kinds().values())]))


def _narrowly_missed(made: Coreset) -> Iterator[str]:
    missed = made.missed
    if missed.is_empty():
        return
    as_next = "the most it would gain as the next pick" if missed["is_bound"].any() else "gain as the next pick"
    yield "<h2>Narrowly missed</h2>\n"
    yield _rows(made, missed.select("sample_id", "rank", pl.coalesce("gain", "standing").alias(as_next)))


def _left_out(made: Coreset) -> Iterator[str]:
    excluded = made.selection.excluded
    if excluded.is_empty():
        return
    yield "<h2>Could not be chosen</h2>\n"
    yield html_page.table(["reason", "samples"], list(counted_reasons(excluded["reason"]).items()))


def _rows(made: Coreset, rows: pl.DataFrame) -> str:
    """Rows with where they stand and what they say, cut."""
    samples = made.samples.select("sample_id", "messages", "origins")
    told = rows.join(samples, on="sample_id", how="left", maintain_order="left")
    lines = [
        [*facts, _where(origins), *_said(messages)]
        for *facts, messages, origins in told.select([*rows.columns, "messages", "origins"]).iter_rows()
    ]
    return html_page.table([*(name.replace("_", " ") for name in rows.columns), "source", "prompt", "response"], lines)


def _where(origins: list[dict[str, Any]] | None) -> str:
    """Where a row stands, in which file of which source, without its folder; empty for a sample that is gone."""
    if not origins:
        return ""
    first, more = origins[0], len(origins) - 1
    return f"{first['source']}: {first['file'].rsplit('/', 1)[-1]}, row {first['row']}" + (
        f", and {more} more" if more else ""
    )


def _said(messages: list[dict[str, Any]] | None) -> tuple[str, str]:
    if not messages:
        return "", ""
    return _cut(message_text(messages[-2])), _cut(message_text(messages[-1]))


def _cut(told: str) -> str:
    return told if len(told) <= _CUT else f"{told[: _CUT - 1]}…"
