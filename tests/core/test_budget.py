"""Budgets: what is read, what is refused, and how a share turns into rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.select.budget import Budget


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        (500, "rows", 500),
        ("500", "rows", 500),
        ("1 row", "rows", 1),
        ("31_596 rows", "rows", 31_596),
        ("10%", "percent", 10),
        (" 0.5 % ", "percent", 0.5),
        ("100%", "percent", 100),
        ("200000 tokens", "tokens", 200_000),
        ("200,000 Tokens", "tokens", 200_000),
    ],
)
def test_forms_that_are_read(text: str | int, unit: str, value: float) -> None:
    assert Budget.parse(text) == Budget(unit, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-5", "budget '-5' must be above zero"),
        ("0%", "budget '0%' must be above zero"),
        ("120%", "budget '120%' is over 100%: the pool has no more than all of its rows"),
        ("ten", "budget 'ten' is not understood: write rows (500), a share (10%) or response tokens (200000 tokens)"),
        ("10 GB", "is not understood"),
        (True, "is not understood"),
        (0.1, "budget 0.1 must be a whole number of rows; for a share of the pool write 0.1%"),
    ],
)
def test_forms_that_are_refused(text: str | float, message: str) -> None:
    with pytest.raises(DselectError) as error:
        Budget.parse(text)
    assert message in str(error.value)


@given(st.sampled_from(["rows", "tokens"]), st.integers(1, 10**9))
def test_what_is_printed_reads_back(unit: str, value: int) -> None:
    budget = Budget.parse(f"{value} {unit}")
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("share", "pool", "rows"), [("10%", 450, 45), ("1%", 31_596, 315), ("1%", 20, 1), ("29%", 100, 29)]
)
def test_a_share_is_rounded_down_but_buys_a_row(share: str, pool: int, rows: int) -> None:
    assert Budget.parse(share).rows(pool) == rows


def test_tokens_are_no_number_of_rows() -> None:
    assert Budget.parse("100 tokens").rows(450) is None
