"""RDS+: the rows most similar to the examples of target sources (Ivison et al. 2025, arXiv 2503.01807).

Similarity: cosine of position-weighted mean-pooled last states [paper], on the grid (similarities.py) [ours].
`round-robin` [paper]: the examples take turns, by sample id, and each takes its nearest row that is not taken. In the
authors' code an example whose nearest row is taken loses that turn; here it takes the next one [ours], so that no
example gets less for being like another. `max`: rows by their highest similarity to any example, as the authors rank
inside one of several tasks.

A share of every prefix may stay general [ours]: of the first k rows ⌈share·k⌉ are targeted, and the others come from
another strategy's order over the whole pool, each its first row that is not taken. So orders stay nested. With such a
share a recipe may give no `quota` and no `balance`.

An example's list of nearest rows is bounded, and made again from the rows that are left when it is used up. Where the
examples are much alike all want the same rows, and lists are made again most often: each time the bound doubles, up to
a limit. No state but the picks is needed to continue; a general order is made again from its start.

Above APPROXIMATE_ABOVE pairs of a row and an example the round-robin looks for nearest rows in inverted lists [ours]:
an example takes the nearest rows of the lists that it probes, and when all of these are taken the nearest of all
others. So a row that it would have taken may go to another, or come later; the order is still one order, the same on
any machine and wherever it is stopped. `recall` says how many of the nearest rows are found.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from dselect_core.errors import DselectError
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order, Pick
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.similarities import Nearest, ProbedLists, Similarities
from dselect_core.select.strategy import Option, Strategy

_ENTRIES = 2**20  # rows in all lists together at first, and at most: bounds the memory, changes no value
_MOST_ENTRIES = 2**23
_SHORTEST = 64  # rows in a list, however many examples there are

By = Literal["round-robin", "max"]
Search = Literal["auto", "exact", "approximate"]

APPROXIMATE_ABOVE = 2_000_000_000
"""Pairs of a row and an example: 1,000,000 rows and 2,000 examples take about a minute of two cores exactly."""
RECALL_EXAMPLES, RECALL_ROWS = 32, 100
"""On how many examples the recall is measured, and how many nearest rows of each count."""


def targeted_order(
    pool: Pool,
    seed: int,
    saved: SavedOrder | None = None,
    by: By = "round-robin",
    targeted: str | None = None,
    general: str | None = None,
    search: Search = "auto",
) -> Order:
    """The order that the header describes. targeted: the share, as `70%`; general: the strategy of the others.

    search: whether nearest rows are looked for in all rows, or in inverted lists; auto: by size.

    Gain: the similarity to the example that took the row; null where the general share did. State `example`: int64 [n],
    number of the example that took it; -1 for the others. Standing: the similarity with which the next targeted pick
    could take the row.
    """
    rest = None if general is None else strategies.strategy(general).order(pool, seed)
    approximate = by == "round-robin" and _is_approximate(search, pool)
    return _Targeted(pool, saved, by, None if targeted is None else _share(targeted), rest, approximate)


def is_approximate(search: Search, rows: int, examples: int) -> bool:
    """Whether the nearest rows of so many are looked for in inverted lists."""
    return search == "approximate" or (search == "auto" and rows * examples > APPROXIMATE_ABOVE)


def _is_approximate(search: Search, pool: Pool) -> bool:
    return is_approximate(search, len(pool), 0 if pool.targets is None else len(pool.targets))


class _Targeted(Order):
    def __init__(
        self,
        pool: Pool,
        saved: SavedOrder | None,
        by: By,
        share: Fraction | None,
        general: Order | None,
        approximate: bool,
    ) -> None:
        assert pool.weighted_embeddings is not None and pool.targets is not None
        n = len(pool)
        self._share, self._general = share, general
        self._is_taken = np.zeros(n, dtype=bool)
        self._example = np.full(n, -1, dtype=np.int64)
        self._count = 0
        if saved is not None and saved.picks:
            self._count = len(saved.picks)
            self._is_taken[[pick.row for pick in saved.picks]] = True
            self._example[:] = saved.state["example"]
        self._groups = np.zeros(n, dtype=np.int64) if pool.groups is None else pool.groups
        self._left = np.bincount(self._groups[~self._is_taken], minlength=int(self._groups.max(initial=0)) + 1)
        similarities = Similarities(pool.weighted_embeddings, pool.targets.vectors)
        examples = len(pool.targets)
        self._ranking: _RoundRobin | _Highest
        if by == "round-robin":
            lists = ProbedLists(similarities) if approximate else None
            self._ranking = _RoundRobin(similarities, examples, self._groups, self._is_taken, lists)
        else:
            self._ranking = _Highest(similarities, self._groups, self._is_taken)

    def __next__(self) -> Pick:
        heeded = self.open_groups
        open_groups = [g for g, left in enumerate(self._left.tolist()) if left and (heeded is None or heeded[g])]
        if not open_groups:
            raise StopIteration
        turn = self._targeted_among(self._count)
        if self._targeted_among(self._count + 1) > turn:
            row, example, similarity = self._ranking.next_row(turn, open_groups)
            self._example[row] = example
            pick = Pick(row, similarity, None)
        else:
            pick = Pick(self._next_general_row(), None, None)
        self._is_taken[pick.row] = True
        self._left[self._groups[pick.row]] -= 1
        self._count += 1
        return pick

    def _targeted_among(self, picks: int) -> int:
        """How many of the first `picks` are targeted."""
        return picks if self._share is None else math.ceil(self._share * picks)

    def _next_general_row(self) -> int:
        assert self._general is not None
        return next(pick.row for pick in self._general if not self._is_taken[pick.row])

    def state(self) -> dict[str, np.ndarray]:
        return {"example": self._example.copy()}

    def standing(self) -> np.ndarray:
        similarities = self._ranking.similarities(self._targeted_among(self._count))
        return np.where(self._is_taken, np.nan, similarities)

    def facts(self) -> dict[str, str | int | float]:
        return self._ranking.facts()


class _RoundRobin:
    """The examples take turns. groups: int64 [n]; is_taken: boolean [n], which the caller keeps up to date.

    Each example has a list for each group of rows, so that it finds its nearest row of the groups that are open.
    probed: then an example's list is of the rows that it probes as long as some of them are left.
    """

    def __init__(
        self,
        similarities: Similarities,
        examples: int,
        groups: np.ndarray,
        is_taken: np.ndarray,
        probed: ProbedLists | None,
    ) -> None:
        self._similarities, self._groups, self._is_taken = similarities, groups, is_taken
        self._probed = probed
        count = int(groups.max(initial=0)) + 1
        nothing = Nearest(np.empty(0, dtype=np.int32), np.empty(0))
        self._lists = [[nothing] * examples for _ in range(count)]
        self._at = [[0] * examples for _ in range(count)]  # in each list: all rows before it are taken
        self._entries = [_ENTRIES // count] * count
        self._most_entries = _MOST_ENTRIES // count

    def next_row(self, turn: int, open_groups: list[int]) -> tuple[int, int, float]:
        """(row, example, similarity) of that turn, counted from 0. Some row of each open group must be left."""
        example = turn % len(self._lists[0])
        similarity, row = min(self._head(group, example) for group in open_groups)
        return row, example, -similarity

    def similarities(self, turn: int) -> np.ndarray:
        """float64 [n], to the example whose turn it is."""
        return self._similarities.to_example(turn % len(self._lists[0]))

    def facts(self) -> dict[str, str | int | float]:
        """How it searched, and the recall on this very pool; empty where it compared all rows."""
        if self._probed is None:
            return {}
        examples = len(self._lists[0])
        drawn = np.unique(np.linspace(0, examples - 1, RECALL_EXAMPLES).round().astype(np.int64))
        none_taken = np.zeros(len(self._is_taken), dtype=bool)
        exact = self._similarities.nearest_rows(drawn, RECALL_ROWS, none_taken)
        found = self._similarities.nearest_rows(drawn, RECALL_ROWS, none_taken, self._probed)
        hits = sum(np.isin(a.rows, b.rows).sum() for a, b in zip(exact, found, strict=True))
        nearest = sum(len(each.rows) for each in exact)
        return {
            "by": "inverted lists",
            "lists": self._probed.lists,
            "nprobe": self._probed.nprobe,
            "recall": round(float(hits) / nearest, 4),
            "recall measured on examples": len(drawn),
            "nearest rows of each": len(exact[0].rows),
        }

    def _head(self, group: int, example: int) -> tuple[float, int]:
        """(minus the similarity, row) of the example's nearest row of the group that is left."""
        if not self._find_free(group, example):
            self._make_lists(group, example)
            self._find_free(group, example)
        at, nearest = self._at[group][example], self._lists[group][example]
        return -float(nearest.similarities[at]), int(nearest.rows[at])

    def _find_free(self, group: int, example: int) -> bool:
        rows, at = self._lists[group][example].rows, self._at[group][example]
        while at < len(rows):
            taken = self._is_taken[rows[at : at + _SHORTEST]]
            step = int(taken.argmin())
            if not taken[step]:
                self._at[group][example] = at + step
                return True
            at += len(taken)
        self._at[group][example] = at
        return False

    def _make_lists(self, group: int, example: int) -> None:
        """Of the example, and of all others that have little left: one pass over the rows serves them all."""
        lists, at = self._lists[group], self._at[group]
        few = [len(nearest.rows) // 4 for nearest in lists]
        left = [np.count_nonzero(~self._is_taken[nearest.rows[a:]]) for nearest, a in zip(lists, at, strict=True)]
        examples = [e for e in range(len(lists)) if e == example or left[e] <= few[e]]
        length = max(_SHORTEST, self._entries[group] // len(lists))
        self._entries[group] = min(2 * self._entries[group], self._most_entries)
        is_closed = self._is_taken if len(self._lists) == 1 else self._is_taken | (self._groups != group)
        for e, nearest in zip(examples, self._nearest(np.array(examples), length, is_closed), strict=True):
            lists[e], at[e] = nearest, 0

    def _nearest(self, examples: np.ndarray, length: int, is_closed: np.ndarray) -> list[Nearest]:
        if self._probed is None:
            return self._similarities.nearest_rows(examples, length, is_closed)
        found = self._similarities.nearest_rows(examples, length, is_closed, self._probed)
        used_up = [at for at, nearest in enumerate(found) if not len(nearest.rows)]
        others = self._similarities.nearest_rows(examples[used_up], length, is_closed)
        for at, nearest in zip(used_up, others, strict=True):
            found[at] = nearest
        return found


class _Highest:
    """Rows by their highest similarity to any example; ties go to the lowest row, and the lowest example."""

    def __init__(self, similarities: Similarities, groups: np.ndarray, is_taken: np.ndarray) -> None:
        self._example, self._similarity = similarities.nearest_examples()
        self._is_taken = is_taken
        by_similarity = np.argsort(-self._similarity, kind="stable")
        group_of = groups[by_similarity]
        self._queues: list[list[int]] = [
            by_similarity[group_of == group].tolist() for group in range(int(groups.max(initial=0)) + 1)
        ]
        self._at = [0] * len(self._queues)  # in each queue: all rows before it are taken

    def next_row(self, turn: int, open_groups: list[int]) -> tuple[int, int, float]:
        """(row, its nearest example, similarity). Some row of each open group must be left."""
        row = min((self._head(group) for group in open_groups), key=lambda row: (-self._similarity[row], row))
        return row, int(self._example[row]), float(self._similarity[row])

    def similarities(self, turn: int) -> np.ndarray:
        """float64 [n], to the nearest example of each row."""
        return self._similarity

    def facts(self) -> dict[str, str | int | float]:
        """Nothing: every row was compared with every example."""
        return {}

    def _head(self, group: int) -> int:
        queue = self._queues[group]
        while self._is_taken[queue[self._at[group]]]:
            self._at[group] += 1
        return queue[self._at[group]]


def _share(text: str) -> Fraction:
    return Fraction(text.removesuffix("%").strip()) / 100


def _checked_share(value: Any) -> str:
    """As it was written, without spaces."""
    text = str(value).replace(" ", "")
    try:
        if text.endswith("%") and "/" not in text and 0 < _share(text) < 1:
            return text
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("share", "write the targeted share of the budget as 70%: above 0% and below 100%")


def _with_general(strategy: Strategy) -> Strategy:
    """The strategy, which needs what the one of its general share needs too."""
    search = strategy.given.get("search", "auto")
    if strategy.given.get("by") == "max":
        if search == "approximate":
            raise DselectError("`by: max` compares every row with every example once: leave `search` out")
        strategy = replace(strategy, decided_by_size=None)
    elif search != "auto":
        strategy = replace(strategy, decided_by_size=None)  # said, so it stands among the options
    name, share = strategy.given.get("general"), strategy.given.get("targeted")
    if name is None and share is None:
        return strategy
    if name is None:
        raise DselectError(f"`targeted: {share}`: say who chooses the rest, as `general: random`")
    if share is None:
        raise DselectError(f"`general: {name}`: say which share stays targeted, as `targeted: 70%`")
    other = strategies.strategy(name)
    if other.target_kind is not None or other.ends_early:
        why = "chooses by the targets itself" if other.target_kind is not None else "may end before the budget"
        raise DselectError(f"`general: {name}` {why}; take another strategy for the rest, as `general: random`")
    return replace(
        strategy,
        needs=strategy.needs | other.needs,
        columns=other.columns,
        values=other.values,
        seeded=other.seeded,
        requires=other.requires,
        by_group=False,  # what a general order gave depends on which groups were open then, and is not kept
    )


def _search_of(pool: Pool) -> str | None:
    """What `search: auto` comes to, where that is not what it always was."""
    return "search approximate" if _is_approximate("auto", pool) else None


def _took(pool: Pool, rows: np.ndarray, state: Mapping[str, np.ndarray]) -> dict[str, pl.Series]:
    """`target`: id of the example that took each pick; null where the general share did."""
    assert pool.targets is not None
    examples = pl.Series(state["example"][rows], dtype=pl.Int64)
    return {"target": pool.targets.sample_ids.gather(examples.replace(-1, None))}


TARGETED = Strategy(
    name="targeted",
    description="most similar to the examples of target sources: RDS+",
    needs=frozenset({"weighted_embeddings"}),
    columns=(),
    order=targeted_order,
    options={
        "by": Option(
            By,
            "round-robin",
            "targeted: round-robin (each example of the target sources in turn takes its nearest row) or max (rows by "
            "their highest similarity to any example); round-robin by default",
        ),
        "targeted": Option(
            Annotated[str, BeforeValidator(_checked_share)],
            None,
            "targeted: share of the budget that is chosen by the targets, as 70%; all of it by default",
        ),
        "general": Option(str, None, "targeted: the strategy that chooses the rest, with its own defaults"),
        "search": Option(
            Search,
            "auto",
            "targeted: exact (every row is compared with every example), approximate (inverted lists; the manifest has "
            f"the recall) or auto: approximate above {APPROXIMATE_ABOVE:,} pairs of them; auto by default",
            in_records_at_default=False,
        ),
    },
    target_kind="weighted_embeddings",
    specialise=_with_general,
    pick_columns=_took,
    by_group=True,
    decided_by_size=_search_of,
)
