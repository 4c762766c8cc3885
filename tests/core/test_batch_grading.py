"""Grades by batches against a real HTTP server on loopback: the same grades, none bought twice, every fault told."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.graders.batch.shelf import Shelf
from dselect_core.graders.grades import GRADES, grade, grader_provenance
from dselect_core.graders.spend import Ledger, Purpose, spending_on
from dselect_core.kinds import NOT_TRIED, FromSamples
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.token_prices import listed_price, price_table
from dselect_core.settings.workspace import Workspace
from tests.batch_server import BatchServer, Line
from tests.core.test_openai_grader import _direct, number, samples  # noqa: F401  (a fixture)
from tests.openai_server import Reply, Request, completion, error, rating

PRICE = {"prompt": 1000.0, "completion": 10_000.0}  # in a batch half of it: 0.05 cents a token, half a cent an answer's
USD_A_GRADE = 0.05 + 0.05  # of 100 tokens and 10, in a batch


def answer(request: Request) -> Reply:
    return rating(1 + number(request) % 5)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(answer) as server:
        yield server


def workspace(folder: Path, server: BatchServer, **options: Any) -> Workspace:
    batch = {"wait_seconds": 30, "poll_seconds": 0.01} | options.pop("batch", {})
    grader = {
        "base_url": server.base_url, "model": "judge-1", "mode": "batch", "batch": batch, "max_tokens": 10,
        "usd_per_million_tokens": PRICE, "timeout_seconds": 20, "max_retries": 2,
    }  # fmt: skip
    sources = {"a": {"path": "a.json"}, "b": {"path": "b.json"}}
    settings = {"storage": str(folder), "sources": sources, "coresets": {}, "grader": grader | options}
    return Workspace(Settings.model_validate(settings))


def graded(
    place: Workspace, rows: pl.DataFrame, source: str = "a", run: str = "r", kept: list[pl.DataFrame] | None = None
) -> pl.DataFrame:
    """What a run keeps of the rows, the last row of each sample, by sample. kept: also gets it, as it comes."""
    frames = [] if kept is None else kept
    computation = GRADES.computed_by(place.settings)
    assert isinstance(computation, FromSamples)
    with spending_on(Purpose(run, source)):
        computation.compute(rows, place.settings, frames.append, None)
    return pl.concat(frames).unique("sample_id", keep="last").sort("sample_id")


def open_batches(place: Workspace) -> int:
    return len(Shelf(place.batches).batches())


def billed(place: Workspace) -> list[int]:
    calls = Ledger.of(place).calls()
    return [int(calls[name].sum()) for name in ("prompt_tokens", "completion_tokens")]


def counting(server: BatchServer, inner: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """Also what is answered live is on the server's bill."""

    def count(request: Request) -> Reply:
        reply = inner(request)
        if request.path != "batch" and isinstance(reply.body, dict) and "usage" in reply.body:
            server.bill(reply.body["usage"])
        return reply

    return count


def test_batches_grade_as_live_does_at_half_the_price(tmp_path: Path, server: BatchServer) -> None:
    server.answer = counting(server, answer)
    rows, place = samples(25), workspace(tmp_path, server, batch={"rows": 10})
    server.faults.output = lambda text: "".join(random.sample(text.splitlines(True), text.count("\n")))
    frame = graded(place, rows)
    live = grade(rows, place.settings.grader.live)
    assert frame.drop("graded_at").equals(live.sort("sample_id").drop("graded_at"))
    assert [len(each["lines"]) for each in server.batches.values()] == [10, 10, 5]
    assert set(server.asked.values()) == {1} and len(server.asked) == 25
    assert server.live == 1 + 25  # the small question, and the live grading above
    assert open_batches(place) == 0 and not list((tmp_path / "batches").glob("*.parquet"))
    calls = Ledger.of(place).calls()
    in_batch = calls.filter(pl.col("call_id").str.starts_with("batch-"))
    assert in_batch.height == 25 and set(in_batch["outcome"]) == {"answered"}
    assert in_batch["usd"].sum() == pytest.approx(25 * USD_A_GRADE)
    assert [tokens + 25 * each for tokens, each in zip(billed(place), (100, 10), strict=True)] == server.billed


def test_a_file_holds_no_more_bytes_than_it_may(tmp_path: Path, server: BatchServer) -> None:
    rows, place = samples(12), workspace(tmp_path, server, batch={"megabytes": 0.01})
    large = rows.with_row_index().filter(pl.col("index") == 3).drop("index")
    long = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "#3# " + "x" * 10_000}]
    rows = pl.concat([rows.filter(~pl.col("sample_id").is_in(large["sample_id"].to_list())),
                      large.with_columns(messages=pl.Series([long], dtype=rows.schema["messages"]))])  # fmt: skip
    frame = graded(place, rows)
    sizes = [len(data) for name, data in server.files.items() if not name.startswith("batch_")]
    assert len(sizes) > 2 and max(sizes) <= 10_000
    assert frame["grade"].null_count() == 1
    assert "larger than a batch may be" in frame["error"].drop_nulls()[0]


def _halves(n: int, lines: list[Line]) -> tuple[str, list[Line]]:
    return ("expired", lines[: len(lines) // 2]) if n == 0 else ("completed", lines)


def _fails_once(request: Request) -> Reply:
    odd = request.path == "batch" and number(request) == 7 and request.attempt == 1
    return error(500, "on fire") if odd else answer(request)


def _unreadable_once(request: Request) -> Reply:
    odd = request.path == "batch" and number(request) == 7 and request.attempt == 1
    return completion("I would say four.", usage=(100, 10)) if odd else answer(request)


ODD_LINES = '\n\nnot json\n[1]\n{"custom_id": 5}\n{"custom_id": "nobody-1", "response": {"status_code": 200}}\n'


def _cut(text: str) -> str:
    return text[:-40] if text.count("\n") == 20 else text


def _odd(text: str) -> str:
    first = text.splitlines(True)[0]
    return ODD_LINES + text + first.replace('\\"rating\\": ', '\\"rating\\": 1')


FAULTS: dict[str, tuple[dict[str, Any], int, int]] = {
    # what the server does; batches made; rows that were answered twice
    "upload fails twice": ({"upload": lambda n: error(500) if n < 2 else None}, 1, 0),
    "create fails twice": ({"create": lambda n: error(500) if n < 2 else None}, 1, 0),
    "create is refused as one too many": ({"create": lambda n: error(429) if n < 2 else None}, 1, 0),
    "made, and not told": ({"made": lambda n: error(502) if n == 0 else None}, 1, 0),
    "made, and the connection breaks": ({"made": lambda n: CUT_REPLY if n == 0 else None}, 1, 0),
    "the output breaks off once": ({"content": lambda n: CUT_REPLY if n == 0 else None}, 1, 0),
    "the output is cut": ({"output": _cut}, 2, 1),
    "odd lines": ({"output": _odd}, 1, 0),
    "expired midway": ({"ends": _halves}, 2, 0),
    "a row fails": ({"answer": _fails_once}, 2, 1),
    "a reply cannot be read": ({"answer": _unreadable_once}, 2, 1),
}
CUT_REPLY = Reply("{", headers={"Content-Length": "500"})


@pytest.mark.walk(5)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_loses_no_grade_and_buys_none_twice(tmp_path: Path, server: BatchServer, fault: str) -> None:
    changes, batches, twice = FAULTS[fault]
    server.answer = counting(server, changes.get("answer", answer))
    for name in changes.keys() - {"answer"}:
        setattr(server.faults, name, changes[name])
    place = workspace(tmp_path, server)
    frame = graded(place, samples(20))
    assert frame["grade"].null_count() == 0, frame["error"].drop_nulls().to_list()
    assert frame["rating"].to_list() == [1 + i % 5 for i in range(20)]
    assert len(server.batches) == batches
    assert sorted(server.asked.values()) == [1] * (20 - twice) + [2] * twice
    assert open_batches(place) == 0
    lost = 1 if fault == "the output is cut" else 0  # a line that never came told no tokens
    assert billed(place) == [server.billed[0] - 100 * lost, server.billed[1] - 10 * lost]
    assert Ledger.of(place).calls()["may_have_cost"].sum() == lost


def test_a_repaired_reply_counts_both_calls(tmp_path: Path, server: BatchServer) -> None:
    server.answer = _unreadable_once
    frame = graded(workspace(tmp_path, server), samples(20))
    assert frame["prompt_tokens"].to_list() == [200 if i == 7 else 100 for i in range(20)]
    asked = list(server.batches.values())[1]["lines"][0]["body"]["messages"]
    assert [each["role"] for each in asked] == ["system", "user", "assistant", "user"]
    assert asked[2]["content"] == "I would say four."


def test_what_fails_again_and_again_is_the_rows_own(tmp_path: Path, server: BatchServer) -> None:
    def odd(request: Request) -> Reply:
        kinds = {3: error(500, "on fire"), 4: completion("I cannot say."), 5: error(403, "flagged")}
        return kinds.get(number(request), answer(request))

    server.answer = odd
    frame = graded(workspace(tmp_path, server), samples(8))
    assert frame["grade"].null_count() == 3
    told = dict(enumerate(frame["error"]))
    assert told[3] == "HTTP 500: on fire" and told[5] == "HTTP 403: flagged" and told[4].startswith("no rating")
    # `max_retries` further calls, one repair, none for what is refused.
    assert [server.asked[f"{i:032x}"] for i in (3, 4, 5)] == [3, 2, 1]
    assert len(server.batches) == 3


def test_an_endpoint_that_dies_charges_no_row_with_an_attempt(tmp_path: Path, server: BatchServer) -> None:
    place = workspace(tmp_path, server, max_retries=0)
    server.answer = lambda request: error(401, "revoked") if request.path == "batch" or server.batches else rating(3)
    with pytest.raises(DselectError, match="refuses access"):
        graded(place, samples(4))
    assert len(server.batches) == 1 and open_batches(place) == 0
    server.answer = answer
    assert graded(place, samples(4))["grade"].null_count() == 0


def test_a_refused_key_shows_before_anything_is_uploaded(tmp_path: Path, server: BatchServer) -> None:
    server.answer = lambda request: error(401, "no such key")
    with pytest.raises(DselectError, match="refuses access"):
        graded(workspace(tmp_path, server), samples(3))
    assert not server.files and not server.calls


def test_the_dialect_is_learnt_before_the_batch(tmp_path: Path, server: BatchServer) -> None:
    def old(request: Request) -> Reply:
        return (
            error(400, "response_format json_schema is not known")
            if "response_format" in request.body
            else answer(request)
        )

    server.answer = old
    assert graded(workspace(tmp_path, server), samples(3))["grade"].null_count() == 0
    assert "response_format" not in server.batches["batch_0"]["lines"][0]["body"]


def test_a_failed_batch_says_why_and_costs_nothing(tmp_path: Path, server: BatchServer) -> None:
    place = workspace(tmp_path, server)
    server.faults.ends = lambda n, lines: ("failed", [])
    server.faults.errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
    with pytest.raises(DselectError, match=r"batch_0 failed .*Enqueued token limit reached.*grader\.batch\.rows lower"):
        graded(place, samples(3))
    assert len(server.batches) == 1 and open_batches(place) == 0
    assert Ledger.of(place).calls()["usd_at_most"].sum() < 0.2  # the small question's
    server.faults.ends = lambda n, lines: ("completed", lines)
    assert graded(place, samples(3))["grade"].null_count() == 0


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_batch_that_ends_early_keeps_what_was_answered(tmp_path: Path, server: BatchServer, status: str) -> None:
    place = workspace(tmp_path, server)
    server.faults.ends = lambda n, lines: (status, lines[:4] if status == "cancelled" else [])
    frame = graded(place, samples(10))
    assert frame["grade"].count() == (4 if status == "cancelled" else 0)
    told = frame["error"].drop_nulls()
    assert set(told) == {f"{NOT_TRIED}batch batch_0 {status} before this row was answered"}
    assert len(server.batches) == 1  # not made again by the run that found it so
    server.faults.ends = lambda n, lines: ("completed", lines)
    rest = samples(10).filter(frame["grade"].is_null())
    assert graded(place, rest, run="s")["grade"].null_count() == 0
    assert set(server.asked.values()) == {1}


def test_what_is_in_a_batch_is_waited_for_and_not_asked_again(tmp_path: Path, server: BatchServer) -> None:
    server.hold = True
    place, rows = workspace(tmp_path, server, batch={"wait_seconds": 0}), samples(6)
    frame = graded(place, rows)
    assert frame["grade"].null_count() == 6
    assert frame["error"].str.contains(rf"^{NOT_TRIED}in batch batch_0 since \d{{4}}-\d\d-\d\d \d\d:\d\d UTC$").all()
    # Neither by a later run, nor for another source that has the row too, nor live.
    live = workspace(tmp_path, server, mode="live")
    for again, source in ((place, "a"), (place, "b"), (live, "a"), (live, "b")):
        assert graded(again, rows, source=source, run="s")["grade"].null_count() == 6
    assert len(server.batches) == 1 and server.live == 1
    both = graded(live, samples(8), source="b", run="s")  # what is in no batch is asked
    assert both["grade"].count() == 2 and server.live == 3
    server.hold = False
    assert graded(live, rows, run="t")["grade"].null_count() == 0
    assert server.live == 3 and set(server.asked.values()) == {1}
    assert open_batches(place) == 0


def test_the_batch_of_a_source_that_is_gone_is_collected_by_who_needs_it(tmp_path: Path, server: BatchServer) -> None:
    server.hold = True
    place = workspace(tmp_path, server, batch={"wait_seconds": 0})
    graded(place, samples(3), source="c")
    server.hold = False
    assert graded(place, samples(3), source="a")["grade"].null_count() == 0
    assert len(server.batches) == 1


def test_criteria_combined_in_another_way_while_a_batch_is_open_are_bought_once(
    tmp_path: Path, server: BatchServer
) -> None:
    reply = json.dumps({"facts": {"rating": 5}, "tone": {"rating": 3}})
    server.answer, server.hold = lambda request: completion(reply), True
    criteria = {"facts": "They are right.", "tone": "It is friendly."}
    place = workspace(tmp_path, server, criteria=criteria, batch={"wait_seconds": 0})
    assert graded(place, samples(5))["grade"].null_count() == 5
    server.hold = False
    place = workspace(tmp_path, server, criteria=criteria, combine="min")
    assert set(graded(place, samples(5))["rating"]) == {3.0}
    assert open_batches(place) == 0 and set(server.asked.values()) == {1}


def test_another_question_leaves_the_batches_of_the_first_alone(tmp_path: Path, server: BatchServer) -> None:
    server.hold = True
    graded(workspace(tmp_path, server, batch={"wait_seconds": 0}), samples(3))
    server.hold = False
    other = workspace(tmp_path, server, model="judge-2")
    assert set(graded(other, samples(3))["grader"]) == {"judge-2"}
    assert open_batches(other) == 1 and len(server.batches) == 2


# A prompt of so many tokens is nearly what a cap must reckon with, a token for each byte that is sent.
LARGE, USD_A_LARGE_GRADE = (1000, 10), 0.5 + 0.05


@pytest.mark.parametrize("cap", ["max_usd", "max_usd_per_month"])
def test_a_cap_holds_over_batches(tmp_path: Path, server: BatchServer, cap: str) -> None:
    server.answer = lambda request: rating(3, usage=LARGE)
    place, rows = workspace(tmp_path, server, **{cap: 20 * USD_A_LARGE_GRADE}), samples(40)
    frame = graded(place, rows)
    # Batch after batch, each as large as what is left may pay at its most.
    assert len(server.batches) > 2
    assert 15 < frame["grade"].count() == server.asked.total() < 20
    assert f"the cap is reached: grader.{cap} of $11" in frame["error"].drop_nulls()[0]
    calls = Ledger.of(place).calls()
    assert calls["usd"].sum() == pytest.approx(server.asked.total() * USD_A_LARGE_GRADE + 2 * USD_A_LARGE_GRADE)
    assert calls["usd_at_most"].sum() <= 20 * USD_A_LARGE_GRADE


def test_what_an_open_batch_may_take_is_not_spent_by_another_source(tmp_path: Path, server: BatchServer) -> None:
    server.hold = True
    server.answer = lambda request: rating(3, usage=LARGE)
    place = workspace(tmp_path, server, max_usd_per_month=20 * USD_A_LARGE_GRADE, batch={"wait_seconds": 0})
    graded(place, samples(40))
    first = len(server.batches["batch_0"]["lines"])
    with pytest.raises(DselectError, match="the cap is reached"):
        graded(place, samples(80).tail(40), source="b", run="s")
    assert 0 < first < 20 and len(server.batches) == 1
    server.hold = False
    graded(place, samples(40))
    assert server.asked.total() > first


def test_the_mode_is_in_no_provenance_and_the_batch_price_is_half() -> None:
    plain = {"model": "gpt-4o-mini"}
    live, batch = (GraderSpec.model_validate(plain | {"mode": mode}) for mode in ("live", "batch"))
    assert grader_provenance(live) == grader_provenance(batch)
    assert price_table().prices["gpt-4o-mini"].batch == 0.5
    listed = listed_price("gpt-4o-mini", None)
    assert listed is not None and live.price == listed and batch.live.price == listed
    assert batch.price is not None and batch.price.prompt == listed.prompt / 2
    assert batch.price.completion == listed.completion / 2
    own = plain | {"mode": "batch", "usd_per_million_tokens": PRICE | {"batch": 0.25}}
    price = GraderSpec.model_validate(own).price
    assert price is not None and price.prompt == 250.0


def test_batches_need_a_storage() -> None:
    with pytest.raises(DselectError, match="mode: live"):
        grade(samples(1), GraderSpec.model_validate({"model": "m", "mode": "batch"}))
