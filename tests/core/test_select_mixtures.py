"""Quotas and balance, of every strategy: equal to a greedy by brute force, exact or refused, nested, continued."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dselect_core.coreset.manifest import is_of, order_identity
from dselect_core.coreset.spec import spec_version
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.clusters import cluster_rows
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.select.select import Selection, required_kinds, select
from dselect_core.settings.settings import Settings
from dselect_core.trials.draws import take_balanced
from tests.cases import CASES
from tests.core.test_select_continue import Orders

NAMES = ["d3", "kcenter", "facility-location", "mads", "deita", "random", "miwv", "topk:loss"]
SOURCES = ["x", "y", "z"]


def make_pool(random: np.random.Generator, n: int) -> Pool:
    """Few distinct values, so many ties; some samples lie in two sources."""
    rows = pl.DataFrame(
        {
            "sample_id": [f"{i:03d}" for i in range(n)],
            "sources": [
                sorted(random.choice(SOURCES, size=1 + (random.random() < 0.2), replace=False)) for _ in range(n)
            ],
            "upd": random.choice([0.25, 0.5, 0.75], n),
            "grade": random.choice([0.5, 1.0], n),
            "loss": random.choice([1.0, 2.0, 3.5], n),
            "miwv": random.choice([-0.5, 0.0, 0.5], n),
            "response_tokens": random.integers(1, 9, n),
        }
    )
    vectors = random.integers(-1, 3, size=(n, 3)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    neurons = np.argsort(random.random((n, 7)), axis=1)[:, :2].astype(np.uint32)
    return Pool.of(rows, vectors, neurons)


def draw_quota(random: np.random.Generator, n: int) -> dict[str, dict[str, Any]]:
    quota: dict[str, dict[str, Any]] = {}
    for source in random.choice(SOURCES, size=random.integers(1, 4), replace=False).tolist():
        high, low = int(random.integers(0, n + 1)), int(random.integers(0, 5))
        most = random.choice(["no", "rows", "share"])
        least = random.choice(["no", "rows", "share", "share"])
        bounds: dict[str, Any] = {}
        if most != "no":
            bounds["max"] = high if most == "rows" else f"{random.choice([20, 33.3, 50, 60, 100])}%"
        if least != "no":
            bounds["min"] = low if least == "rows" else f"{random.choice([0, 10, 12.5, 33.3, 40])}%"
        quota[source] = bounds or {"max": "50%"}
    return quota


class Counts:
    """What a quota allows, by its words: at every prefix, and looked up to the end by trying everything."""

    def __init__(self, quota: dict[str, dict[str, Any]], sizes: dict[str, int], budget: int) -> None:
        self.sources, self.quota, self.sizes = sorted(sizes), quota, sizes
        self.depends = any(isinstance(each.get("min"), int) and each["min"] > 0 for each in quota.values())
        self.budget, self.total = budget, sum(sizes.values())

        @cache
        def reach(counts: tuple[int, ...]) -> int:
            """The longest prefix that these rows can be continued to; -1 where they are not allowed."""
            if not self.holds(counts):
                return -1
            longest = sum(counts)
            if longest < (budget if self.depends else self.total):
                return max([longest, *(reach(self.plus(counts, at)) for at in range(len(counts)))])
            return longest

        self.reach = reach
        self.horizon = reach((0,) * len(self.sources))

    def plus(self, counts: tuple[int, ...], at: int) -> tuple[int, ...]:
        return tuple(count + (i == at) for i, count in enumerate(counts))

    def holds(self, counts: tuple[int, ...]) -> bool:
        prefix = sum(counts)
        for source, count in zip(self.sources, counts, strict=True):
            bounds = self.quota.get(source, {})
            if count > self.sizes[source]:
                return False
            if "max" in bounds and count > rows_of(bounds["max"], prefix, ceil):
                return False
            is_due = not isinstance(bounds.get("min"), int) or prefix == self.budget
            if "min" in bounds and is_due and count < rows_of(bounds["min"], prefix, floor):
                return False
        return True

    def open(self, counts: tuple[int, ...]) -> set[str]:
        nexts = {source: self.plus(counts, at) for at, source in enumerate(self.sources)}
        return {source for source, after in nexts.items() if self.reach(after) >= self.horizon}


def rows_of(amount: int | str, prefix: int, rounded: Callable[[Fraction], int]) -> int:
    return amount if isinstance(amount, int) else rounded(Fraction(amount.rstrip("%")) / 100 * prefix)


def best(name: str, pool: Pool, chosen: list[int], is_open: list[bool], covered: set[int]) -> int | None:
    """The row that a strategy takes next of the open ones, by its definition alone. covered: mads' set of this pass."""
    left = [row for row in range(len(pool)) if row not in chosen and is_open[row]]
    assert pool.embeddings is not None and pool.neurons is not None
    vectors = round_unit_vectors(pool.embeddings)[0].astype(np.int64)
    scale = round_unit_vectors(pool.embeddings)[1]
    weights = [round(u * g * 2**16) for u, g in pool.scores.select("upd", "grade").iter_rows()]
    if name == "deita":

        def alike(i: int, j: int) -> bool:
            a, b = vectors[i], vectors[j]
            return float(a @ b) > 0.9 * sqrt(float(a @ a) * float(b @ b))

        left = [row for row in left if not any(alike(row, other) for other in chosen)]
    if not left:
        return None
    if name == "mads":
        sets = [set(row.tolist()) for row in pool.neurons]
        if all(not sets[row] - covered for row in left):
            covered.clear()
        row = max(left, key=lambda row: (len(sets[row] - covered), -row))
        covered |= sets[row]
        return row
    if name == "facility-location":
        s = np.maximum(vectors @ vectors.T + scale * scale, 0)
        b = s[:, chosen].max(axis=1) if chosen else np.zeros(len(pool), dtype=np.int64)
        value = [int(np.maximum(s[:, row] - b, 0).sum()) for row in range(len(pool))]
    elif name in ("d3", "kcenter"):
        of = weights if name == "d3" else [1] * len(pool)
        distance = [min([int(((v - vectors[j]) ** 2).sum()) for j in chosen], default=1) for v in vectors]
        value = [w * w * d for w, d in zip(of, distance, strict=True)]
    elif name == "random":
        value = [-int(digest(["0", sample_id]), 16) for sample_id in pool.sample_ids]
    else:
        value = weights if name == "deita" else pool.scores[name.removeprefix("topk:")].to_list()
    return max(left, key=lambda row: (value[row], -row))


def sources_of(pool: Pool) -> list[str]:
    return pool.scores["sources"].list.first().to_list()


def chosen_rows(selection: Selection) -> list[int]:
    return [int(sample_id) for sample_id in selection.order["sample_id"]]


def recipe(name: str, budget: int, **mixture: Any) -> CoresetSpec:
    return CoresetSpec.model_validate({"strategy": name, "budget": budget, **mixture})


@pytest.mark.parametrize("name", NAMES)
def test_quotas_equal_a_greedy_by_brute_force_or_are_refused(name: str) -> None:
    refused = met = 0
    for seed in range(CASES):
        random = np.random.default_rng(seed)
        n = int(random.integers(1, 11))
        pool, quota, budget = make_pool(random, n), draw_quota(random, n), int(random.integers(1, n + 1))
        try:
            spec = recipe(name, budget, quota=quota)
        except ValidationError as error:
            assert "is above max" in str(error) or "over 100%" in str(error)
            continue
        of_row = sources_of(pool)
        counts = Counts(quota, {source: of_row.count(source) for source in SOURCES}, budget)
        try:
            selection = select(pool, spec)
        except DselectError as error:
            refused += 1
            assert str(error).startswith("quota: ")
            assert counts.horizon < budget or (name == "deita" and "too similar" in str(error)), (seed, quota)
            continue
        met += 1
        assert counts.horizon >= budget
        rows, taken, covered = chosen_rows(selection), [0] * len(SOURCES), set[int]()
        for at, row in enumerate(rows):
            is_open = counts.open(tuple(taken))
            expected = best(name, pool, rows[:at], [source in is_open for source in of_row], covered)
            while expected is None:  # deita: none of these is left, so others come
                pytest.fail(f"{seed}: {row} was picked, and nothing is open")
            assert row == expected, (seed, quota, rows)
            taken[SOURCES.index(of_row[row])] += 1
            assert counts.holds(tuple(taken))
        assert len(rows) == budget or (name == "deita" and selection.too_alike == n - len(rows))
    assert refused > CASES / 20 and met > CASES / 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["equal", "sqrt"])
def test_balance_equals_a_greedy_by_brute_force(name: str, how: str) -> None:
    for seed in range(CASES // 5):
        random = np.random.default_rng(seed)
        n = int(random.integers(1, 11))
        pool, budget = make_pool(random, n), int(random.integers(1, n + 1))
        of_row = sources_of(pool)
        size = {source: of_row.count(source) for source in SOURCES}
        rows = chosen_rows(select(pool, recipe(name, budget, balance={"by": "source", "how": how})))
        taken, covered = dict.fromkeys(SOURCES, 0), set[int]()
        ended: set[str] = {source for source in SOURCES if not size[source]}
        for at in range(budget):
            row = None
            while row is None and len(ended) < len(SOURCES):
                weight = {source: Fraction(size[source] if how == "sqrt" else 1) for source in SOURCES}
                turn = max(
                    (source for source in SOURCES if source not in ended),
                    key=lambda s: (weight[s] / (2 * taken[s] + 1) ** 2, -SOURCES.index(s)),
                )
                row = best(name, pool, rows[:at], [source == turn for source in of_row], covered)
                if row is None:
                    ended.add(turn)
            assert row == (rows[at] if at < len(rows) else None), seed
            if row is None:
                break
            taken[of_row[row]] += 1
            if taken[of_row[row]] == size[of_row[row]]:
                ended.add(of_row[row])


def test_the_balanced_random_draw_is_the_trials() -> None:
    for seed in range(100):
        random = np.random.default_rng(seed)
        n = int(random.integers(3, 60))
        pool = make_pool(random, n)
        budget = int(random.integers(1, n + 1))
        chosen = select(pool, recipe("random", budget, balance="source")).order["sample_id"].to_list()
        order = select(pool, recipe("random", n)).order["sample_id"].to_list()
        drawn = take_balanced(order, dict(zip(pool.sample_ids, sources_of(pool), strict=True)), budget)
        assert sorted(chosen) == sorted(drawn)


@pytest.mark.parametrize("name", ["random", "d3", "mads"])
def test_balance_by_cluster_takes_as_many_of_each(name: str) -> None:
    random = np.random.default_rng(3)
    size = {0: 90, 1: 50, 2: 30, 3: 10}
    centres = np.array([[9, 0, 0], [-9, 0, 0], [0, 9, 0], [0, -9, 9]])
    of_row = np.repeat(list(size), list(size.values()))
    n = len(of_row)
    pool = replace(make_pool(random, n), embeddings=(centres[of_row] + random.normal(size=(n, 3))).astype(np.float32))
    labels = cluster_rows(pool, 4)
    assert len({(label, centre) for label, centre in zip(labels, of_row, strict=True)}) == len(set(labels))
    spec = recipe(name, 60, balance={"by": "cluster", "clusters": 4})
    assert "embeddings" in required_kinds(spec)
    selection = select(pool, spec, None, lambda key: None)
    assert selection.mixture is not None and selection.saved is not None
    taken = np.bincount(labels[[int(i) for i in selection.order["sample_id"]]], minlength=4)
    assert sorted(taken.tolist()) == [10, 16, 17, 17]
    assert selection.mixture["chosen"].to_list() == taken.tolist()
    assert selection.mixture["group"].to_list() == [f"cluster {number}" for number in range(4)]
    assert selection.saved.table["state_group"].to_list() == labels.tolist()


def test_clusters_do_not_depend_on_the_blocks_and_are_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    pool = replace(make_pool(random, 300), embeddings=random.normal(size=(300, 8)).astype(np.float32))
    labels = cluster_rows(pool, 7)
    monkeypatch.setattr("dselect_core.select.clusters._BLOCK", 13)
    assert np.array_equal(cluster_rows(pool, 7), labels)
    monkeypatch.setattr("dselect_core.select.clusters.ROUNDS", 1_000)
    labels = cluster_rows(pool, 7)  # until nothing moves: then each row is nearest to the mean of its own
    grid = round_unit_vectors(pool.embeddings)[0].astype(np.float64)  # type: ignore[arg-type]
    means = np.array([grid[labels == label].sum(axis=0) for label in range(7)])
    means /= np.linalg.norm(means, axis=1)[:, None]
    cosines = grid @ means.T
    assert (cosines[np.arange(300), labels] >= cosines.max(axis=1) - 2.0).all()  # within the grid of the centres
    assert set(cluster_rows(pool.take(np.arange(3)), 7)) == {0, 1, 2}  # fewer rows than clusters


def test_a_row_without_embedding_is_in_no_cluster() -> None:
    pool = make_pool(np.random.default_rng(2), 20)
    assert pool.embeddings is not None
    pool.embeddings[4] = np.nan
    selection = select(pool, recipe("random", 5, balance="cluster"))
    assert selection.excluded.rows() == [("004", "no embedding")]
    with pytest.raises(DselectError, match="the pool has no embeddings"):
        select(Pool(pool.scores), recipe("random", 5, balance="cluster"))


def nested(quota: dict[str, dict[str, Any]]) -> bool:
    return not any(isinstance(each.get("min"), int) and each["min"] for each in quota.values())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.integers(4, 40), st.booleans(), st.data())
def test_any_sequence_of_budgets_equals_fresh_runs_and_shares_nest(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, n: int, is_quota: bool, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    pool = make_pool(random, n)
    how = {"balance": {"how": str(random.choice(["equal", "sqrt"]))}}
    mixture: dict[str, Any] = {"quota": draw_quota(random, n // 4)} if is_quota else how
    orders = Orders(tmp_path_factory.mktemp("orders"))
    longest: list[int] = []
    for budget in data.draw(st.lists(st.integers(1, n), min_size=2, max_size=6)):
        try:
            spec = recipe(name, budget, **mixture)
            fresh = select(pool, spec)
        except (DselectError, ValidationError):
            continue
        selection = select(pool, spec, None, orders)
        orders.write(selection)
        assert selection.order.equals(fresh.order)
        assert selection.mixture is not None and fresh.mixture is not None and selection.mixture.equals(fresh.mixture)
        alone = select(pool, spec, None, lambda key: None).saved
        assert alone is not None and selection.saved is not None
        if len(alone.picks) == len(selection.saved.picks):
            assert alone.table.equals(selection.saved.table)
        if nested(mixture.get("quota", {})):
            rows = chosen_rows(fresh)
            short, long = sorted([rows, longest], key=len)
            assert long[: len(short)] == short
            longest = long
            assert len(set(orders.requested_keys)) == 1
        bounds = fresh.mixture
        assert bounds["chosen"].sum() == fresh.rows
        assert (bounds["chosen"] <= bounds["most"]).fill_null(True).all()
        assert (bounds["chosen"] >= bounds["least"]).fill_null(True).all()


def test_a_budget_in_percent_is_a_share_of_the_pool() -> None:
    pool = make_pool(np.random.default_rng(4), 40)
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": "50%", "quota": {"x": {"max": "20%"}}})
    mixture = select(pool, spec).mixture
    assert mixture is not None
    assert mixture.filter(group="x").rows() == [("x", mixture["candidates"][0], 4, None, 4)]


class TestLarge:
    """Rows by the hundred, so that bounds are lazy, windows move on and blocks of prefixes are several."""

    @pytest.fixture
    def pool(self) -> Pool:
        random = np.random.default_rng(7)
        n = 400
        rows = pl.DataFrame(
            {
                "sample_id": [f"{i:03d}" for i in range(n)],
                "sources": [[str(source)] for source in random.choice(SOURCES, n, p=[0.6, 0.3, 0.1])],
                "upd": random.integers(0, 9, n) / 10,
                "grade": 1.0,
            }
        )
        centres = random.normal(size=(20, 6))
        vectors = centres[random.integers(0, 20, n)] + random.normal(size=(n, 6)) / 4
        return Pool.of(rows, vectors.astype(np.float32))

    @pytest.mark.parametrize("name", ["d3", "kcenter", "deita"])
    @pytest.mark.parametrize(
        "mixture",
        [
            {"quota": {"x": {"max": "30%"}, "z": {"min": "10%"}}},
            {"quota": {"x": {"max": 9}, "z": {"min": 30}}},
            {"balance": {"how": "sqrt"}},
        ],
    )
    def test_as_by_brute_force(
        self, pool: Pool, name: str, mixture: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dselect_core.select.quotas._BLOCK", 16)
        monkeypatch.setattr("dselect_core.select.deita._BLOCK", 7)
        monkeypatch.setattr("dselect_core.select.farthest_first._FarthestFirstByGroup._FEW", 2)
        of_row = sources_of(pool)
        assert pool.embeddings is not None
        grid = round_unit_vectors(pool.embeddings)[0].astype(np.int64)
        weights = np.rint(pool.scores["upd"].to_numpy() * 2**16).astype(np.int64)
        options = {"threshold": 0.995} if name == "deita" else {}
        rows = chosen_rows(select(pool, recipe(name, 100, **mixture, **options)))
        taken = dict.fromkeys(SOURCES, 0)
        nearest = np.full(len(pool), 2**26, dtype=np.int64)
        may = np.ones(len(pool), dtype=bool)
        for at, row in enumerate(rows, start=1):
            if "balance" in mixture:
                size = {source: of_row.count(source) for source in SOURCES}
                turn = max(SOURCES, key=lambda s: (Fraction(size[s]) / (2 * taken[s] + 1) ** 2, -SOURCES.index(s)))
                is_open = {turn}
            else:
                quota = mixture["quota"]
                is_open = set(SOURCES)
                if taken["x"] >= rows_of(quota["x"]["max"], at, ceil):
                    is_open.discard("x")
                later = [at] if isinstance(quota["z"]["min"], str) else [100]
                if any(rows_of(quota["z"]["min"], t, floor) - taken["z"] > t - at for t in later):
                    is_open = {"z"}
            value = weights if name == "deita" else nearest * (weights**2 if name == "d3" else 1)
            value = np.where(may & np.isin(of_row, list(is_open)), value, -1)
            if at == 1 and name != "deita":
                value = np.where(value < 0, -1, weights if name == "d3" else 1)
            assert row == int(np.argmax(value)), at
            taken[of_row[row]] += 1
            may[row] = False
            nearest = np.minimum(nearest, ((grid - grid[row]) ** 2).sum(axis=1))
            if name == "deita":
                squared = (grid**2).sum(axis=1).astype(np.float64)
                may &= ~((grid @ grid[row]).astype(np.float64) > 0.995 * np.sqrt(squared * squared[row]))


def refused(quota: dict[str, Any], budget: int = 10, name: str = "random", **sizes: int) -> str:
    ids = [f"{source}{i:03d}" for source, count in sizes.items() for i in range(count)]
    pool = Pool.of(pl.DataFrame({"sample_id": ids, "sources": [[sample_id[0]] for sample_id in ids]}))
    with pytest.raises(DselectError) as error:
        select(pool, recipe(name, budget, quota=quota))
    return str(error.value)


def test_a_quota_that_cannot_be_met_says_which_and_why() -> None:
    assert refused({"a": {"min": 5}}, a=3, b=20) == (
        "quota: source a has 3 rows that can be chosen, fewer than its min of 5 rows: lower it, or add rows"
    )
    assert refused({"a": {"min": "40%"}}, a=3, b=20).startswith(
        "quota: source a has 3 rows that can be chosen, fewer than its min of 40% (4 of 10 rows)"
    )
    assert refused({"gone": {"min": 1}}, b=20).startswith("quota: source gone has 0 rows")
    assert refused({"a": {"min": 6}, "b": {"min": 5}}, a=9, b=9) == (
        "quota: the mins are 11 rows (a 6, b 5), more than the budget of 10: lower a min, or raise the budget"
    )
    assert refused({"a": {"max": "20%"}, "b": {"max": 3}}, a=9, b=9, c=1) == (
        "quota: of the first 10 rows only 6 can be filled: a 2 (max 20%), b 3 (max 3 rows), all others 1 (all it has). "
        "Raise a max, lower the budget, or add rows"
    )
    assert refused({"a": {"min": 4, "max": "30%"}}, a=9, b=9) == (
        "quota: of source a the min of 4 rows is more than the max of 30% (3 of 10 rows)"
    )
    # 41% of 7 is 3 and of 10 is 5, rounded up: both sources have two rows to come in the last three.
    of_two = {"a": {"min": 5, "max": "41%"}, "b": {"min": 5, "max": "41%"}}
    assert "quota: the maxes leave 4 rows of the mins to the last 3 of 10" in refused(of_two, a=9, b=9, c=9)


def test_a_pool_without_sources_and_a_strategy_that_does_not_look_at_groups_are_refused() -> None:
    bare = Pool.of(pl.DataFrame({"sample_id": list("abc")}))
    with pytest.raises(DselectError, match="need the column `sources` in the pool"):
        select(bare, recipe("random", 2, balance="source"))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"quota": {"a": {}}}, "give `max`, `min` or both"),
        (
            {"quota": {"a": {"max": "120%"}}},
            "'120%' is not understood: write rows (100) or a share of the budget (30%)",
        ),
        ({"quota": {"a": {"max": -1}}}, "-1 is not understood"),
        ({"quota": {"a": {"max": True}}}, "True is not understood"),
        ({"quota": {"a": {"min": 5, "max": 4}}}, "min 5 rows is above max 4 rows"),
        ({"quota": {"a": {"min": "60%"}, "b": {"min": "50%"}}}, "are 110% together: over 100% of any budget"),
        ({"quota": {"a": {"mx": 4}}}, "mx"),
        ({"quota": {"a": {"max": 4}}, "balance": "source"}, "give `quota` or `balance`, not both"),
        ({"balance": "sauce"}, "sauce"),
        ({"balance": {"by": "source", "clusters": 4}}, "`clusters` is for `by: cluster`"),
        ({"balance": "source", "budget": "99 tokens"}, "`balance` counts rows: give the budget as rows (500)"),
        ({"quota": {"a": {"max": 4}}, "budget": "99 tokens"}, "`quota` counts rows"),
    ],
)
def test_what_no_pool_could_meet_is_refused_with_the_settings(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        CoresetSpec.model_validate({"strategy": "random", "budget": 10} | given_)
    assert message in str(error.value)


def test_the_key_has_the_mixture_and_the_budget_only_where_it_decides() -> None:
    pool = make_pool(np.random.default_rng(1), 30)
    keys: list[str] = []

    def key(budget: int = 9, pool: Pool = pool, **mixture: Any) -> str:
        select(pool, recipe("d3", budget, **mixture), None, keys.append)  # type: ignore[arg-type, func-returns-value]
        return keys[-1]

    share, rows = {"x": {"max": "40%"}}, {"x": {"min": 2}}
    plain = key()
    assert plain == order_key(pool, "d3", 0)
    assert len({plain, key(quota=share), key(quota=rows), key(balance="source"), key(balance={"how": "sqrt"})}) == 5
    assert key(quota=share) == key(budget=5, quota=share)
    assert key(quota=rows) != key(budget=5, quota=rows)
    moved = pool.scores.with_columns(sources=pl.lit(["x"]))
    assert key(pool=Pool(moved, pool.embeddings, pool.neurons), balance="source") != key(balance="source")
    assert key(pool=Pool(moved, pool.embeddings, pool.neurons)) == plain


def test_a_recipe_without_a_mixture_is_recorded_as_it_was() -> None:
    plain = {"strategy": "d3", "budget": "10 rows", "seed": 0}
    assert spec_version(recipe("d3", 10)) == fingerprint(plain)
    assert is_of({**order_identity(recipe("d3", 10)), "budget": "10 rows"}, recipe("d3", 20))
    mixed = recipe("d3", 10, quota={"x": {"max": "30%"}, "y": {"min": 4}}, min_response_tokens=3)
    as_recorded = plain | {"quota": {"x": {"max": "30%"}, "y": {"min": 4}}, "min_response_tokens": 3}
    assert spec_version(mixed) == fingerprint(as_recorded)
    assert CoresetSpec.model_validate(as_recorded) == mixed
    manifest = order_identity(mixed)
    assert is_of(manifest, mixed) and not is_of(manifest, recipe("d3", 10))
    assert not is_of(order_identity(recipe("d3", 10)), mixed)


def test_a_quota_of_an_unknown_source_or_one_that_is_held_out_is_refused_with_the_settings() -> None:
    def of(quota: dict[str, Any]) -> None:
        Settings.model_validate(
            {
                "sources": {"lima": {"path": "l.json"}, "held": {"path": "h.json", "role": "eval"}},
                "coresets": {"d": {"strategy": "d3", "budget": 9, "quota": quota}},
            }
        )

    of({"lima": {"max": "20%"}})
    with pytest.raises(ValidationError, match=r"coresets\.d\.quota: no source `lime`; did you mean `lima`\?"):
        of({"lime": {"max": 3}})
    with pytest.raises(ValidationError, match="`held` has the role eval, so it is never chosen from"):
        of({"held": {"min": 3}})
