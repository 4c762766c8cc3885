"""What calls to a judge cost is counted to the token, and no call is made that could cross a cap."""

import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from dselect_core.errors import DselectError
from dselect_core.graders.grades import grade, grader_provenance
from dselect_core.graders.meter import open_meter
from dselect_core.graders.spend import CALLS, Ledger, Purpose, priced, spend_figures, spending_on
from dselect_core.kinds import NOT_TRIED
from dselect_core.reports.refresh_page import RefreshFacts, write_refresh_report
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.token_prices import listed_price, price_table
from dselect_core.settings.workspace import Workspace
from tests.core.test_openai_grader import _direct, number, samples, spec  # noqa: F401  (a fixture)
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating

PRICE = {"prompt": 1000.0, "completion": 10_000.0}  # a tenth of a cent a token, a cent a token of the answer
USD_A_GRADE = 0.1 + 0.1  # of 100 tokens and 10


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of(workspace(tmp_path))


def workspace(folder: Path) -> Workspace:
    return Workspace(Settings.model_validate({"storage": str(folder), "sources": {}, "coresets": {}}))


def priced_spec(server: OpenAIServer, **options: object) -> GraderSpec:
    return spec(server, usd_per_million_tokens=PRICE, max_tokens=10, max_retries=0, **options)


def graded(ledger: Ledger, spec: GraderSpec, rows: pl.DataFrame, run: str = "r", source: str = "a") -> pl.DataFrame:
    with spending_on(Purpose(run, source)), open_meter(spec, ledger) as meter:
        return grade(rows, spec, meter=meter)


def not_tried(frame: pl.DataFrame) -> int:
    return int(frame["error"].fill_null("").str.starts_with(NOT_TRIED).sum())


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("cap", ["max_usd", "max_usd_per_month"])
def test_a_cap_worth_100_grades_is_never_crossed(ledger: Ledger, cap: str, concurrency: int) -> None:
    rows = samples(150)
    with OpenAIServer(lambda request: rating(3, usage=(100, 10), delay=0.01)) as server:
        capped = priced_spec(server, concurrency=concurrency, **{cap: 100 * USD_A_GRADE})
        frame = graded(ledger, capped, rows)
        asked = len(server.requests)
        assert frame["grade"].count() == asked <= 100
        # What is left is less than a call may take at its most: about 1.7 thousand bytes that are sent, 10 tokens back.
        assert asked >= 85
        assert not_tried(frame) == 150 - asked
        assert f"grader.{cap} of $20" in frame["error"].drop_nulls()[0]
        # The next run of a month has nothing left, and says so; the next refresh has its cap anew.
        rest = rows.filter(frame["grade"].is_null())
        if cap == "max_usd_per_month":
            with pytest.raises(DselectError, match=r"the cap is reached: grader\.max_usd_per_month"):
                graded(ledger, capped, rest, run="s")
            assert len(server.requests) == asked
        else:
            with pytest.raises(DselectError, match=r"the cap is reached: grader\.max_usd of"):
                graded(ledger, capped, rest)  # another source of the same refresh
            assert graded(ledger, capped, rest, run="s")["grade"].null_count() == 0
            assert len(server.requests) == 150
    calls = ledger.calls()
    assert calls["prompt_tokens"].sum() == 100 * len(server.requests)
    assert calls["usd"].sum() == pytest.approx(len(server.requests) * USD_A_GRADE)


def test_a_cap_holds_without_a_ledger(ledger: Ledger) -> None:
    with OpenAIServer(lambda request: rating(3)) as server:
        frame = grade(samples(40), priced_spec(server, max_usd=30 * USD_A_GRADE))
        assert 0 < frame["grade"].count() == len(server.requests) <= 30
    assert ledger.months() == []


def test_a_cap_that_is_too_small_for_one_call_buys_nothing_and_says_so(ledger: Ledger) -> None:
    with OpenAIServer(lambda request: rating(3)) as server:
        with pytest.raises(DselectError, match=r"max_usd of \$0\.01"):
            graded(ledger, priced_spec(server, max_usd=0.01), samples(3))
        assert server.requests == []


def answers(request: Request) -> Reply:
    """One of all that an endpoint may do, by the number of the row."""
    kinds = [
        rating(4, usage=(100, 10)),
        completion("no rating here", usage=(120, 20)),
        completion(None, refusal="no", usage=(90, 5)),
        Reply({"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 0}}),
        error(500, "on fire"),
        Reply({"error": {"message": "flagged"}, "usage": {"prompt_tokens": 60, "completion_tokens": 1}}, 400),
        rating(2, usage=None),
    ]
    at = number(request)
    return kinds[at % len(kinds)] if at >= 0 else rating(3, usage=(15, 3))


def test_all_that_was_billed_is_counted_whatever_came_of_it(ledger: Ledger) -> None:
    billed = [0, 0]
    without_usage = 0
    lock = threading.Lock()

    def counting(request: Request) -> Reply:
        nonlocal without_usage
        reply = answers(request)
        usage = reply.body.get("usage")
        with lock:
            if usage:
                billed[0] += usage["prompt_tokens"]
                billed[1] += usage["completion_tokens"]
            without_usage += reply.status == 200 and not usage
        return reply

    with OpenAIServer(counting) as server:
        graded(ledger, priced_spec(server), samples(70))
        calls = ledger.calls()
        assert calls.height == len(server.requests)  # also the other dialects and the small questions
    assert [int(calls[name].sum()) for name in ("prompt_tokens", "completion_tokens")] == billed
    unknown = calls.filter(pl.col("may_have_cost"))
    assert unknown.height == without_usage > 0
    assert unknown["usd_at_most"].min() > USD_A_GRADE
    assert calls["usd"].sum() == pytest.approx(billed[0] * 0.001 + billed[1] * 0.01)
    assert calls.filter(outcome="refused")["usd_at_most"].sum() == 0


def test_a_call_that_did_not_say_what_it_took_counts_as_the_most_it_may_have(ledger: Ledger) -> None:
    with OpenAIServer(lambda request: rating(3, usage=None)) as server:
        frame = graded(ledger, priced_spec(server, max_usd=100 * USD_A_GRADE), samples(100))
        asked = len(server.requests)
    assert 0 < frame["grade"].count() == asked < 30
    calls = ledger.calls()
    assert calls["usd"].sum() == 0 and calls["usd_at_most"].sum() <= 100 * USD_A_GRADE


GRADING = """
import sys
from pathlib import Path
from dselect_core.graders.spend import Ledger
from tests.core.test_spend import graded, workspace
from tests.core.test_openai_grader import samples
from dselect_core.settings.grader_spec import GraderSpec
import json
graded(Ledger.of(workspace(Path(sys.argv[1]))), GraderSpec.model_validate(json.loads(sys.argv[2])), samples(60))
"""


def test_calls_under_way_at_a_kill_count_as_the_most_they_may_have_taken(tmp_path: Path) -> None:
    reached = threading.Event()

    def answer(request: Request) -> Reply:
        if number(request) == 40:
            reached.set()
        return rating(3, usage=(100, 10), delay=0.1)

    with OpenAIServer(answer) as server:
        settings = priced_spec(server, concurrency=8, max_usd_per_month=100.0).model_dump_json()
        root = Path(__file__).parents[2]
        process = subprocess.Popen([sys.executable, "-c", GRADING, str(tmp_path), settings], cwd=root, env=os.environ)
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        asked = len(server.requests)
    calls = Ledger.of(workspace(tmp_path)).calls()
    assert calls.height - 8 <= asked <= calls.height  # written before they are made
    ended = calls.filter(pl.col("outcome").is_not_null())
    assert calls.height - ended.height <= 8
    assert calls["usd_at_most"].sum() > asked * USD_A_GRADE


def test_two_processes_share_the_cap_of_a_month(tmp_path: Path) -> None:
    with OpenAIServer(lambda request: rating(3, usage=(100, 10))) as server:
        settings = priced_spec(server, max_usd_per_month=90 * USD_A_GRADE).model_dump_json()
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", GRADING, str(tmp_path), settings]
        processes = [subprocess.Popen(command, cwd=root, env=os.environ) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
        assert 60 < len(server.requests) <= 90


def test_the_page_of_a_refresh_says_what_it_spent_and_nothing_where_no_price_is_known(
    tmp_path: Path, ledger: Ledger
) -> None:
    place = workspace(tmp_path)
    with OpenAIServer(lambda request: rating(3, usage=(100, 10))) as server:
        graded(ledger, priced_spec(server), samples(3), "r", "a")
        graded(ledger, spec(server), samples(6), "t", "a")  # no price is known

    def spent(run: str) -> str:
        page = write_refresh_report(place, RefreshFacts(run, datetime.now(UTC), 1.0, [], []))
        return page.read_text().split("What it spent</h2>")[1].split("<h2>")[0]

    assert f'<td class="n">{3 * USD_A_GRADE:.4f}</td></tr>' in spent("r")
    assert spent("t").rstrip().endswith('<td class="n">60</td><td></td></tr>\n</table>')


def test_spend_by_run_source_and_month_in_the_figures(tmp_path: Path, ledger: Ledger) -> None:
    place = workspace(tmp_path)
    assert spend_figures(place, Purpose("r", "a")) == {}
    with OpenAIServer(lambda request: rating(3, usage=(100, 10))) as server:
        graded(ledger, priced_spec(server), samples(3), "r", "a")
        graded(ledger, priced_spec(server), samples(4), "r", "b")
        graded(ledger, priced_spec(server), samples(5), "s", "a")
        graded(ledger, spec(server), samples(6), "t", "a")  # no price is known
    assert spend_figures(place, Purpose("s", "a")) == {
        "judge calls": 5,
        "judge prompt tokens": 500,
        "judge completion tokens": 50,
        "spent (USD)": pytest.approx(5 * USD_A_GRADE),
        "spent on this source ever (USD)": pytest.approx(8 * USD_A_GRADE),
        "spent this month, all sources (USD)": pytest.approx(12 * USD_A_GRADE),
    }
    assert ledger.calls().filter(run="t")["usd"].null_count() == 6
    assert "spent (USD)" not in spend_figures(place, Purpose("t", "a"))
    assert spend_figures(place, Purpose("asked nothing", "a"))["spent (USD)"] == 0.0
    price = GraderSpec.model_validate({"model": "m", "usd_per_million_tokens": PRICE}).price
    assert ledger.calls(price=price).filter(run="t")["usd"].sum() == pytest.approx(6 * USD_A_GRADE)


def test_a_month_begins_anew(ledger: Ledger) -> None:
    row = dict.fromkeys(CALLS) | {
        "call_id": "x", "begun_at": datetime(2026, 1, 31, 23, 59, tzinfo=UTC), "run": "r", "usd_prompt": 1e6,
        "usd_completion": 0.0, "prompt_tokens": 1000, "completion_tokens": 0, "outcome": "answered",
    }  # fmt: skip
    with ledger.appender("2026-01") as appender:
        appender.add(pl.DataFrame([row], schema=CALLS))
    assert ledger.calls()["usd"].sum() == 1000
    with OpenAIServer(lambda request: rating(3, usage=(100, 10))) as server:
        assert graded(ledger, priced_spec(server, max_usd_per_month=10.0), samples(2))["grade"].count() == 2
        with pytest.raises(DselectError, match="max_usd of"):  # of the same refresh, whose night it was
            graded(ledger, priced_spec(server, max_usd=10.0), samples(2))


def test_the_price_in_the_settings_wins_over_a_dated_table_of_openais() -> None:
    assert re.fullmatch(r"20\d\d-\d\d", price_table().as_of)
    listed = listed_price("gpt-4o-mini", None)
    assert listed is not None and (listed.prompt, listed.completion) == (0.15, 0.6)
    assert listed_price("gpt-4o-mini-2024-07-18", "https://api.openai.com/v1") == listed
    assert listed_price("gpt-4o-2024-05-13", None) != listed_price("gpt-4o-2024-11-20", None)
    assert listed_price("gpt-4o-mini", "https://elsewhere.example/v1") is None
    assert listed_price("gpt-4o-mini-audio", None) is None
    own = GraderSpec.model_validate({"model": "gpt-4o-mini", "usd_per_million_tokens": PRICE})
    assert own.price is not None and own.price.prompt == 1000.0
    assert GraderSpec.model_validate({"model": "gpt-4o-mini", "max_usd": 1.0}).price == listed


@pytest.mark.parametrize("cap", ["max_usd", "max_usd_per_month"])
def test_a_cap_needs_a_price(cap: str) -> None:
    with pytest.raises(ValidationError, match="what judge-1 costs is not known"):
        GraderSpec.model_validate({"model": "judge-1", "base_url": "http://localhost/v1", cap: 1.0})
    with pytest.raises(ValidationError, match="read by an endpoint's grader only"):
        GraderSpec.model_validate({"reward_model": "x", cap: 1.0})


def test_calls_without_a_price_have_no_cost() -> None:
    row = dict.fromkeys(CALLS) | {"call_id": "x", "prompt_tokens": 5, "completion_tokens": 5, "outcome": "answered"}
    frame = priced(pl.DataFrame([row], schema=CALLS))
    assert frame["usd"].to_list() == [None] and frame["usd_at_most"].to_list() == [None]


def test_money_is_in_no_provenance() -> None:
    plain = {"model": "judge-1", "base_url": "http://localhost/v1"}
    money = {"usd_per_million_tokens": PRICE, "max_usd": 1.0, "max_usd_per_month": 2.0}
    before, after = (GraderSpec.model_validate(given) for given in (plain, plain | money))
    assert grader_provenance(before) == grader_provenance(after)
