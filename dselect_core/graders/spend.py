"""What the judge's calls cost: a ledger of every call, in the storage.

    spend/<year>-<month>/        a store (storage/score_store.py), one row a call, of the gradings begun in that month

A call is written twice: before it is made, with the most that it may take, and when it has ended, with what it took.
So a call that was under way when its process was killed is known, and counts as what it may have taken at most; so does
one that ended without saying what it took (a timeout, a reply without usage). One that was refused took nothing.
The grades say what each row's last call took; the ledger also has the calls that brought no grade, the repeated ones
and the small questions whether an endpoint works.

Trade-off: a ledger row a call is as much writing as the grade itself. It is what a cap can be held to.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import uuid4

import polars as pl
from upath import UPath

from dselect_core.settings.token_prices import TokenPrice
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.appender import Appender
from dselect_core.storage.deduplicate import sort_and_deduplicate
from dselect_core.storage.folder_listing import list_tree
from dselect_core.storage.score_store import COMPACT_MIN_PARTS, Store

CALLS: dict[str, pl.DataType] = {
    "call_id": pl.String(),
    "begun_at": pl.Datetime("us", "UTC"),
    "run": pl.String(),
    "source": pl.String(),
    "judge": pl.String(),
    "model": pl.String(),
    "usd_prompt": pl.Float64(),
    "usd_completion": pl.Float64(),
    "most_prompt_tokens": pl.Int64(),
    "most_completion_tokens": pl.Int64(),
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
    "outcome": pl.String(),
}
"""Columns of the ledger. usd_*: dollars per million tokens at that time, null where none was known. most_*: before the
call. judge: its name among `graders`; null of the only one. prompt_tokens, completion_tokens: as the endpoint counted
them. outcome: one of those below; null: not ended.
"""

ANSWERED, REFUSED, UNKNOWN = "answered", "refused", "unknown"
"""How a call ended: with its tokens; with an error that is not billed; without saying what it took."""

Price: TypeAlias = TokenPrice | Mapping[str, TokenPrice] | None
"""Of all models, or by model."""

_MONTH = re.compile(r"\d{4}-\d{2}")
_COMPACT_FROM = 8 * COMPACT_MIN_PARTS


@dataclass(frozen=True)
class Purpose:
    """What calls are made for. run: a refresh, or whatever else counts as one; source: None where it is of none."""

    run: str = field(default_factory=lambda: uuid4().hex)
    source: str | None = None


_purpose: ContextVar[Purpose | None] = ContextVar("purpose", default=None)


@contextmanager
def spending_on(purpose: Purpose) -> Iterator[None]:
    """The calls that are begun inside are for this purpose."""
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def current_purpose() -> Purpose:
    """What the calls of this context are for; a run of its own where nobody said."""
    return _purpose.get() or Purpose()


def month_of(moment: datetime) -> str:
    """`2026-11`: the calendar month in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m")


MONTH = pl.col("begun_at").dt.strftime("%Y-%m")
"""The month in which a call was begun, as `month_of` writes it."""


def in_month(month: str) -> pl.Expr:
    """Whether a call was begun in a month."""
    return MONTH.eq(month)


@dataclass(frozen=True)
class Ledger:
    """The ledger of a storage."""

    root: UPath

    @classmethod
    def of(cls, workspace: Workspace) -> "Ledger":
        """That of a workspace."""
        return cls(workspace.spend)

    def store(self, month: str) -> Store:
        """The store of one month."""
        return Store(self.root / month, keys=("call_id",), retry_column="outcome")

    def months(self) -> list[str]:
        """The months in which gradings were begun, ascending."""
        folders = {path.split("/", 1)[0] for path in list_tree(self.root)}
        return sorted(name for name in folders if _MONTH.fullmatch(name))

    def calls(self, month: str | None = None, price: Price = None) -> pl.DataFrame:
        """CALLS of one month's gradings, or of all, one row a call, with what they cost: see `priced`."""
        frames = [pl.DataFrame(schema=CALLS)]  # of which an earlier version may lack some
        for each in self.months() if month is None else [month]:
            parts = [part.frame for part in self.store(each).parts()]
            if parts:
                rows = sort_and_deduplicate(pl.concat(parts, how="diagonal"), ["call_id"], "outcome")
                frames.append(rows.select(name for name in CALLS if name in rows.columns))
        return priced(pl.concat(frames, how="diagonal"), price)

    def has(self, begun_at: datetime, word: str) -> bool:
        """Whether a call that was begun then has this in its call_id."""
        return not self.calls(month_of(begun_at)).filter(pl.col("call_id").str.contains(word, literal=True)).is_empty()

    def appender(self, month: str) -> Appender:
        """Writes rows of a month, each kept as it comes."""
        store = self.store(month)
        store.compact(_COMPACT_FROM)
        return Appender(store, rows=4096, seconds=30.0, costly=True)


def priced(calls: pl.DataFrame, price: Price = None) -> pl.DataFrame:
    """The calls with usd: what they cost, and usd_at_most: the same, with what those may have cost that did not say.

    price: where none was known at the time, of all models or by model. Null where none is known at all.
    """
    by_prompt, by_completion = pl.col("usd_prompt"), pl.col("usd_completion")
    if isinstance(price, TokenPrice):
        by_prompt, by_completion = by_prompt.fill_null(price.prompt), by_completion.fill_null(price.completion)
    for model, of_model in price.items() if isinstance(price, Mapping) else ():
        is_of = pl.col("model") == model
        by_prompt = by_prompt.fill_null(pl.when(is_of).then(pl.lit(of_model.prompt)))
        by_completion = by_completion.fill_null(pl.when(is_of).then(pl.lit(of_model.completion)))

    def usd(prompt: str, completion: str) -> pl.Expr:
        return (pl.col(prompt) * by_prompt + pl.col(completion) * by_completion) / 1e6

    known = usd("prompt_tokens", "completion_tokens")
    may_have_cost = pl.col("prompt_tokens").is_null() & (pl.col("outcome").fill_null(UNKNOWN) == UNKNOWN)
    most = pl.when(may_have_cost).then(usd("most_prompt_tokens", "most_completion_tokens")).otherwise(known)
    nothing = pl.when(by_prompt.is_null()).then(None).otherwise(0.0)
    return calls.with_columns(
        usd=pl.coalesce(known, nothing), usd_at_most=pl.coalesce(most, nothing), may_have_cost=may_have_cost
    )


def spend_figures(workspace: Workspace, purpose: Purpose) -> dict[str, str | int | float]:
    """What a run shows of a source: dollars and tokens, of the run, this month and ever. Empty where nothing was."""
    calls = Ledger.of(workspace).calls()
    if calls.is_empty():
        return {}
    of_run = calls.filter(pl.col("run") == purpose.run, pl.col("source").eq_missing(pl.lit(purpose.source)))
    of_source = calls.filter(pl.col("source").eq_missing(pl.lit(purpose.source)))
    of_month = calls.filter(in_month(month_of(datetime.now(UTC))))
    figures: dict[str, str | int | float] = {
        "judge calls": of_run.height,
        "judge prompt tokens": int(of_run["prompt_tokens"].sum()),
        "judge completion tokens": int(of_run["completion_tokens"].sum()),
    }
    if usd_of(calls) is not None:
        spent = {
            "spent (USD)": of_run,
            "spent on this source ever (USD)": of_source,
            "spent this month, all sources (USD)": of_month,
        }
        # Without the last digits of a sum of floats; and not zero where calls were made at a price that nobody knows.
        known = {name: 0.0 if some.is_empty() else usd_of(some) for name, some in spent.items()}
        figures |= {name: round(usd, 6) for name, usd in known.items() if usd is not None}
    return figures


def usd_of(calls: pl.DataFrame) -> float | None:
    """What priced calls of the ledger cost together, in dollars; None where the price of none is known."""
    return float(calls["usd"].sum()) if calls["usd"].count() else None
