"""Intervals of trials: how often they call chance a difference, and how often they see one; multiples by hand."""

import math

import numpy as np
import pytest

from dselect_core.trials.statistics import Marks, crossing, difference, multiplier

EVALS = {"a": 40, "b": 25}


def marks(random: np.random.Generator, effects: np.ndarray, rows: dict[str, np.ndarray], noise: float) -> Marks:
    """Losses of runs: each row's own, an effect of the run, and noise. effects: [runs]."""
    values = {
        name: own[None] + effects[:, None] + random.normal(0, noise, (len(effects), len(own)))
        for name, own in rows.items()
    }
    return Marks(values, {name: np.linspace(1, 9, len(own)) for name, own in rows.items()})


@pytest.mark.parametrize("draw_spread", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("seed_spread", [0.0, 0.02])
def test_a_random_draw_is_seldom_called_better_or_worse(draw_spread: float, seed_spread: float) -> None:
    """The coreset is itself a draw: its luck is the same in all of its runs."""
    random = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        rows = {name: random.normal(2, 1, size) for name, size in EVALS.items()}
        luck = random.normal(0, draw_spread)
        coreset = marks(random, luck + random.normal(0, seed_spread, 3), rows, 0.05)
        draws = marks(random, random.normal(0, draw_spread, 5) + random.normal(0, seed_spread, 5), rows, 0.05)
        found = difference(coreset, draws, drawn=True, higher_is_better=False)
        called += not found.low <= 0 <= found.high
    assert called <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_a_plain_difference_is_seen_with_its_sign() -> None:
    random = np.random.default_rng(2)
    rows = {name: random.normal(2, 1, size) for name, size in EVALS.items()}
    draws = marks(random, random.normal(0, 0.01, 5), rows, 0.02)
    for shift in (-0.2, 0.2):
        coreset = marks(random, np.full(3, shift), rows, 0.02)
        of_loss = difference(coreset, draws, drawn=True, higher_is_better=False)
        assert of_loss.low <= -shift <= of_loss.high
        assert (of_loss.low > 0) == (shift < 0) and (of_loss.high < 0) == (shift > 0)
        of_match = difference(coreset, draws, drawn=True, higher_is_better=True)
        assert of_match.better_by == -of_loss.better_by


def test_the_interval_follows_from_the_spread_of_draws_by_hand() -> None:
    """One eval row has no spread over rows, so Student's interval for one more draw is all that is left."""
    draws = Marks({"a": np.array([[1.0], [2.0], [3.0]])}, {"a": np.ones(1)})
    coreset = Marks({"a": np.array([[0.5], [1.5]])}, {"a": np.ones(1)})
    found = difference(coreset, draws, drawn=True, higher_is_better=False)
    assert found.better_by == pytest.approx(1.0)
    assert found.half_width == pytest.approx(4.302653 * math.sqrt(1 + 1 / 3), rel=1e-6)
    welch = difference(coreset, draws, drawn=False, higher_is_better=False)
    # Variances of the means 0.5/2 and 1/3, degrees of freedom by Welch: 2.9988.
    variance = 0.5 / 2 + 1 / 3
    degrees = variance**2 / ((0.5 / 2) ** 2 / 1 + (1 / 3) ** 2 / 2)
    assert degrees == pytest.approx(2.8824, abs=1e-3)
    assert welch.half_width == pytest.approx(3.26 * math.sqrt(variance), rel=0.01)


def test_a_token_counts_as_much_as_another_and_an_eval_set_as_another() -> None:
    few = Marks({"a": np.array([[1.0, 4.0]]), "b": np.array([[10.0]])}, {"a": np.array([1.0, 2.0]), "b": np.ones(1)})
    assert few.per_run() == pytest.approx([(3.0 + 10.0) / 2])
    assert few.only("a").per_run() == pytest.approx([3.0])


def test_draws_without_a_spread_are_refused() -> None:
    one = Marks({"a": np.ones((1, 4))}, {"a": np.ones(4)})
    with pytest.raises(ValueError, match="two draws"):
        difference(one, one, drawn=True, higher_is_better=False)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(2.1, 1.0), (2.0, 1.0), (1.75, 2**0.5), (1.5, 2.0), (1.4, 2**1.5), (1.3, 4.0), (1.29, math.inf)],
)
def test_the_multiple_at_which_random_draws_reach_a_loss(loss: float, expected: float) -> None:
    assert crossing(loss, {1: 2.0, 2: 1.5, 4: 1.3}) == pytest.approx(expected)


def test_a_curve_that_rises_again_is_reached_where_it_first_falls_so_far() -> None:
    assert crossing(1.6, {1: 2.0, 2: 1.5, 4: 1.9}) == pytest.approx(2**0.8)


def test_the_multiplier_has_an_interval_that_holds_it() -> None:
    random = np.random.default_rng(3)
    rows = {name: random.normal(2, 1, size) for name, size in EVALS.items()}
    curve = {k: marks(random, np.full(4, -0.1 * math.log2(k)), rows, 0.01) for k in (1, 2, 4)}
    value, low, high = multiplier(marks(random, np.full(3, -0.1), rows, 0.01), curve)
    assert low <= value <= high and value == pytest.approx(2, rel=0.1) and high - low < 1
    assert multiplier(marks(random, np.full(3, -1.0), rows, 0.01), curve) == (math.inf, math.inf, math.inf)
    assert multiplier(marks(random, np.full(3, 1.0), rows, 0.01), curve) == (1.0, 1.0, 1.0)
