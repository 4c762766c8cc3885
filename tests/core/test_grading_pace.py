"""How fast an endpoint is asked, and what becomes of its refusals: by the count of a real server on loopback."""

import asyncio
import re
import threading
import time

import pytest

from dselect_core import stop
from dselect_core.errors import DselectError
from dselect_core.graders.grades import grade
from dselect_core.graders.pacing import Pace
from dselect_core.graders.rate_headers import Allowance, allowance, retry_after
from dselect_core.kinds import NOT_TRIED
from tests.core.test_openai_grader import number, samples, spec
from tests.openai_server import OpenAIServer, RateLimit, Reply, Request, error, rating


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("retry_after", [False, True])
def test_a_rate_limit_costs_few_calls_and_no_row(retry_after):
    limit = RateLimit(lambda request: rating(4, delay=0.02), calls=20, seconds=1, retry_after=retry_after)
    with OpenAIServer(limit) as server:
        frame = grade(samples(140), spec(server, concurrency=64, max_retries=0))
    assert frame["grade"].to_list() == [0.75] * 140
    assert len(limit.taken) == 140
    # As many as may be under way when the limit is first met, and then a few.
    assert 0 < limit.refused < 28 + 14
    assert len(server.requests) == 140 + limit.refused


def test_what_the_headers_tell_is_kept_before_anything_is_refused():
    limit = RateLimit(lambda request: rating(4, delay=0.02), calls=30, seconds=0.5, told=True)
    with OpenAIServer(limit) as server:
        frame = grade(samples(120), spec(server, concurrency=16))
    assert frame["grade"].null_count() == 0
    assert limit.refused == 0 and len(server.requests) == 120


def test_retry_after_holds_back_all_calls_and_not_only_the_refused_one():
    refused_at: list[float] = []
    began: list[float] = []

    def answer(request: Request) -> Reply:
        began.append(time.monotonic())
        if number(request) == 5 and request.attempt == 1:
            refused_at.append(time.monotonic())
            return error(429, retry_after_ms="1500")
        return rating(4, delay=0.05)

    with OpenAIServer(answer) as server:
        frame = grade(samples(40), spec(server, concurrency=4))
    assert frame["grade"].null_count() == 0 and len(server.requests) == 41
    # Those under way have arrived by then, and nobody starts before the endpoint takes calls again.
    late = [at for at in began if refused_at[0] + 0.8 < at < refused_at[0] + 1.4]
    assert late == []


def test_calls_at_once_start_low_halve_with_a_refusal_and_grow_back_by_one_a_round():
    async def run() -> None:
        pace = Pace(64)
        assert pace.at_once == 8
        while pace.at_once < 64:
            pace.answered(await pace.start(100))
        pace.answered(await pace.start(100))
        assert pace.at_once == 64
        under_way = [await pace.start(100) for _ in range(20)]
        for call in under_way[:3]:
            pace.refused(call, 0.01)
        assert pace.at_once == 32  # once for all that had begun by then
        for call in under_way[3:]:
            pace.answered(call)
        assert pace.at_once == 32
        ahead = await pace.start(100)
        behind = asyncio.create_task(pace.start(100))
        await asyncio.sleep(0.05)
        assert not behind.done()  # one call goes ahead
        pace.answered(ahead)
        pace.answered(await behind)
        for _ in range(40):
            pace._calls.learnt = 1e9  # not to wait
            pace._calls.due = 0
            pace.answered(await pace.start(100))
        assert pace.at_once == 33

    asyncio.run(run())


def test_requests_a_minute_are_kept_from_the_first_on():
    with OpenAIServer(lambda request: rating(4)) as server:
        started = time.monotonic()
        frame = grade(samples(12), spec(server, rpm=1200))  # one every 50 ms
        seconds = time.monotonic() - started
    assert frame["grade"].null_count() == 0
    assert seconds > 11 * 0.05 - 0.1


def test_tokens_a_minute_are_kept_by_what_the_replies_say_they_used():
    with OpenAIServer(lambda request: rating(4, usage=(900, 100))) as server:
        started = time.monotonic()
        frame = grade(samples(8), spec(server, concurrency=1, tpm=600_000))  # 1,000 tokens: one every 100 ms
        seconds = time.monotonic() - started
    assert frame["grade"].null_count() == 0
    assert seconds > 7 * 0.1 - 0.1


def test_a_row_that_is_refused_for_itself_blocks_no_other():
    with OpenAIServer(lambda r: error(429, "too large") if number(r) == 1 else rating(4)) as server:
        frame = grade(samples(6), spec(server, max_retries=0))
    assert frame["grade"].to_list() == [0.75, None, *[0.75] * 4]
    assert re.fullmatch(r"refused \d+ times while others were taken: HTTP 429: too large", frame["error"][1])


def test_an_endpoint_that_takes_nothing_for_long_ends_the_run_and_charges_no_row():
    taken = threading.Semaphore(5)

    def answer(request: Request) -> Reply:
        return rating(4) if taken.acquire(blocking=False) else error(429, "daily limit")

    with OpenAIServer(answer) as server:
        frame = grade(samples(40), spec(server, concurrency=4, max_wait_seconds=1))
    assert frame["grade"].drop_nulls().to_list() == [0.75] * 5
    assert all(reason.startswith(NOT_TRIED) for reason in frame["error"].drop_nulls())
    assert "takes no more calls now (HTTP 429: daily limit)" in frame["error"][39]
    assert len(server.requests) < 30
    with OpenAIServer(lambda r: error(429, "tomorrow", retry_after="86400", retry_after_ms="86400000")) as server:
        with pytest.raises(DselectError, match="takes no more calls now"):
            grade(samples(40), spec(server))
        assert len(server.requests) <= 8


def test_a_stop_ends_the_waiting():
    with OpenAIServer(lambda r: error(429, retry_after_ms="60000")) as server:
        timer = threading.Timer(0.5, stop.request_stop)
        timer.start()
        try:
            with pytest.raises(stop.Stopped):
                grade(samples(20), spec(server))
        finally:
            stop.forget_request()
        assert len(server.requests) <= 8


def test_an_outage_in_which_an_endpoint_comes_back_costs_no_row():
    broken_until: list[float] = []

    def answer(request: Request) -> Reply:
        if len(server.requests) > 60 and not broken_until:
            broken_until.append(time.monotonic() + 1)
        if broken_until and time.monotonic() < broken_until[0]:
            return Reply({"error": {"message": "restarting"}}, 503)
        return rating(4, delay=0.01)

    with OpenAIServer(answer) as server:
        frame = grade(samples(200), spec(server, concurrency=16))
    assert frame["grade"].null_count() == 0
    assert len(server.requests) < 200 + 3 * 16


def test_a_dead_endpoint_is_asked_little_however_many_retries_and_said_so(caplog):
    with OpenAIServer(lambda r: rating(4) if 0 <= number(r) < 50 else error(500, "gone")) as server:
        frame = grade(samples(600), spec(server, concurrency=32, max_retries=2))
    assert frame["grade"].null_count() == 550
    assert all(reason.startswith(NOT_TRIED) for reason in frame["error"].drop_nulls())
    assert len(server.requests) < 50 + 4 * 32
    assert "Nothing more is asked" in caplog.text and "HTTP 500: gone" in caplog.text


def test_a_key_that_is_revoked_midway_is_asked_no_more():
    with OpenAIServer(lambda r: rating(4) if 0 <= number(r) < 10 else error(401, "revoked")) as server:
        frame = grade(samples(200), spec(server, concurrency=4))
    assert frame["grade"].null_count() == 190
    assert len(server.requests) <= 10 + 3 * 4


def test_a_retry_sends_the_very_same_request():
    with OpenAIServer(lambda r: error(500) if r.attempt < 3 else rating(4)) as server:
        grade(samples(1), spec(server, temperature=0.5))
    assert [request.attempt for request in server.requests] == [1, 2, 3]
    assert server.requests[0].body == server.requests[2].body


@pytest.mark.parametrize("headers,seconds", [
    ({"retry-after": "2"}, 2.0),
    ({"retry-after": "0.5", "retry-after-ms": "1500"}, 1.5),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "-1"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "9" * 5000}, None),
    ({}, None),
])  # fmt: skip
def test_retry_after_in_all_its_forms(headers, seconds):
    said = retry_after(headers)
    assert said == seconds or (headers.get("retry-after", "").startswith("999") and said and said > 1e60)


@pytest.mark.parametrize("limit,remaining,reset,expected", [
    ("60", "59", "1s", Allowance(59, 1.0)),
    ("14400", "14370", "2m59.56s", Allowance(14370, 30 / 179.56)),
    ("100", "0", "120ms", Allowance(0, 100 / 0.12)),
    ("100", "40", "1h1m0s", Allowance(40, 60 / 3660)),
    ("100", "40", "6", Allowance(40, 10.0)),
    ("100", "100", "0s", None),
    ("100", None, "1s", None),
    ("many", "1", "1s", None),
    ("100", "1", "soon", None),
    ("100", "1", "", None),
    ("100", "-5", "1s", None),
])  # fmt: skip
def test_what_remains_of_a_limit(limit, remaining, reset, expected):
    given = {"limit": limit, "remaining": remaining, "reset": reset}
    headers = {f"x-ratelimit-{key}-tokens": value for key, value in given.items() if value is not None}
    said = allowance(headers, "tokens")
    assert said == (expected and pytest.approx(expected))
    assert allowance(headers, "requests") is None
