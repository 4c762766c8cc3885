"""mads against a recount of every gain with Python sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.select import mads
from dselect_core.select.mads import max_coverage


def reference(neurons: list[list[int]]) -> list[tuple[int, float, int]]:
    """Full scan with sets: most new neurons, lowest row; when nothing gains, clear and count a pass."""
    covered: set[int] = set()
    left, picks, cover_pass = list(range(len(neurons))), [], 1
    while left:
        row = max(left, key=lambda i: (len(set(neurons[i]) - covered), -i))
        gain = len(set(neurons[row]) - covered)
        if gain == 0:
            covered, cover_pass = set(), cover_pass + 1
            continue
        picks.append((row, float(gain), cover_pass))
        covered |= set(neurons[row])
        left.remove(row)
    return picks


def run(neurons: list[list[int]]) -> list[tuple[int, float, int | None]]:
    return [tuple(pick) for pick in max_coverage(np.array(neurons, dtype=np.uint32))]


@settings(max_examples=1000, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.integers(0, 7), min_size=m, max_size=m, unique=True), min_size=1, max_size=14)
    )
)
def test_equals_brute_force_with_ties_and_duplicates(neurons: list[list[int]]) -> None:
    assert run(neurons) == reference(neurons)


@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force_on_larger_sets(seed: int) -> None:
    random = np.random.default_rng(seed)
    neurons = [random.choice(200, size=12, replace=False).tolist() for _ in range(150)]
    assert run(neurons) == reference(neurons)


def test_equals_brute_force_where_many_rows_have_one_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mads, "_LOOK", 2)  # so that rows are looked at in several turns, and passed over for good
    random = np.random.default_rng(5)
    neurons = [random.choice(24, size=3, replace=False).tolist() for _ in range(400)]
    assert run(neurons) == reference(neurons)


@pytest.mark.parametrize("width", [mads._LARGEST_NARROW - 1, mads._LARGEST_NARROW])
def test_gains_do_not_run_over_in_either_width(width: int) -> None:
    rows = [range(width), range(width), range(1, width + 1), range(2 * width, 3 * width)]
    picks = [(0, width, 1), (3, width, 1), (2, 1, 1), (1, width, 2)]
    assert run([list(row) for row in rows]) == [(row, float(gain), cover_pass) for row, gain, cover_pass in picks]


def test_saturation_opens_a_pass_and_keeps_the_chosen() -> None:
    # Rows 0 and 1 cover all four neurons; row 2 repeats row 0 and can only gain once the covered set is cleared.
    assert run([[0, 1], [2, 3], [0, 1]]) == [(0, 2.0, 1), (1, 2.0, 1), (2, 2.0, 2)]
