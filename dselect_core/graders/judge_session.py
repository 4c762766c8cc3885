"""One grading run against one endpoint: calls side by side, and what a failed call says about the endpoint or the row.

When a call may start is said in pacing.py. A call that was refused as one too many (429) is asked again, however often,
as long as the endpoint takes any: no row is given up for that. Only if it takes none for `max_wait_seconds` does the
run end. Other failures are tried again `max_retries` times; who waits for that holds no place that another could use.

A failure may be the row's (the endpoint breaks on this text) or the endpoint's (an outage, a refused key). Which one
shows only later, so failed rows are held back: once the endpoint answers a later call they are the rows' own. When many
calls fail in a row, and at the end, all others stop and it is asked one small question instead. If that is not answered
either, the endpoint does not work: nothing more is asked, and no row is charged with an attempt.

Trade-off: that question costs one small call, and it is asked only when calls have failed.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dselect_core.errors import DselectError, UnreachableError
from dselect_core.graders.call_failure import CallFailure, describe, failure_of
from dselect_core.graders.judge_form import Chat, JudgeForm
from dselect_core.graders.judge_logprobs import NoLogprobsError
from dselect_core.graders.judge_reply import Judgement, NotACompletionError, read_completion
from dselect_core.graders.judge_request import Dialect
from dselect_core.graders.meter import CapReachedError, Meter
from dselect_core.graders.pacing import Call, Pace
from dselect_core.graders.rate_headers import allowance, retry_after
from dselect_core.kinds import NOT_TRIED
from dselect_core.progress import Progress
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.storage.group_commit import GroupCommit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_BYTES = 4 * 2**20
"""Of a reply that is read at all."""

# A row that is refused so often while the small question is answered is refused for what it is (more tokens than a
# minute may have), and not for the others beside it. The question is asked after as many refusals as stand first.
_REFUSED_BEFORE_ASKING, _REFUSED_ALONE = 3, 6

_log = logging.getLogger(__name__)


class _Held(NamedTuple):
    """A failure that waits for what the endpoint does next: its number in the run, and that of the row."""

    number: int
    at: int
    failure: CallFailure


class Session:
    """What the endpoint accepts, whether it still answers, and the calls that are under way."""

    def __init__(self, client: "AsyncOpenAI", spec: GraderSpec, form: JudgeForm, meter: Meter) -> None:
        """client: with max_retries=0; a call is tried again here. meter: counts what the calls cost."""
        self._client = client
        self._address = str(client.base_url.join("chat/completions"))  # whole: to join it takes a while at each call
        self._spec = spec
        self._meter = meter
        self._pace = Pace(spec.concurrency, spec.rpm, spec.tpm)
        self._form = form
        self._dialect = Dialect.first(logprobs=form.logprobs)
        self._proven = False  # whether a call was answered in this dialect
        self._answered = 0
        self._failures = 0  # of rows, after all tries
        self._failed_calls = 0  # in a row
        self._held: list[_Held] = []  # since the last call that was answered began
        self._stopped: str | None = None
        self._may_work_again = False  # another time, after it was stopped
        self._asking = asyncio.Lock()

    async def judge(
        self,
        total: int,
        chat_of: Callable[[int], Chat],
        progress: Progress | None,
        keep: Callable[[list[tuple[int, Judgement]]], None],
    ) -> list[Judgement]:
        """Judge the chats 0 … total - 1; the result is in their order. keep: writes those that it is given, with their
        numbers: each once, and before another call begins in its place.

        Raises DselectError when the endpoint answered none, and each failed for a reason that all would meet.
        """
        results: list[Judgement | None] = [None] * total
        # Rows that are asked or wait: as many wait for a later try as are under way.
        rows = asyncio.Semaphore(2 * self._spec.concurrency)
        done = 0
        judged = GroupCommit(keep)

        async def finish(at: int, judgement: Judgement) -> None:
            nonlocal done
            results[at] = judgement
            await judged.kept((at, judgement))
            done += 1
            if progress is not None:
                progress(done, total)

        async def release(of_rows: bool, before: float = math.inf) -> None:
            held = [each for each in self._held if each.number < before]
            self._held = self._held[len(held) :]
            for _, at, failure in held:
                is_attempt = of_rows and failure.may_be_the_row
                await finish(at, Judgement(error=failure.error if is_attempt else NOT_TRIED + failure.error))

        async def one(at: int) -> None:
            try:
                await self._refuse_or_ask(at, chat_of, finish, release)
            finally:
                rows.release()

        try:
            async with asyncio.TaskGroup() as group:
                for at in range(total):
                    # Taken before the task is made, so that a large table is not a large heap of tasks.
                    await rows.acquire()
                    group.create_task(one(at))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if self._held:
            works = self._stopped is None and await self._works()
            last = self._held[-1].failure
            if not works and not self._answered and (last.for_all or self._stopped is not None):
                raise self._ended(last)
            await release(works)
        return [each if each is not None else Judgement(error=f"{NOT_TRIED}not asked") for each in results]

    async def _refuse_or_ask(
        self,
        at: int,
        chat_of: Callable[[int], Chat],
        finish: Callable[[int, Judgement], Awaitable[None]],
        release: Callable[..., Awaitable[None]],
    ) -> None:
        if self._stopped is not None:
            if not self._answered:
                raise self._ended()
            # Grades already bought are kept; the others are asked again by the next run.
            await finish(at, Judgement(error=NOT_TRIED + self._stopped))
            return
        outcome, failures_before = await self._ask_until(chat_of(at), release)
        if isinstance(outcome, Judgement):
            # A call that was under way as another failed may have been answered before the endpoint broke.
            await release(True, before=failures_before)
            await finish(at, outcome)
            return
        self._held.append(_Held(self._failures, at, outcome))
        self._failures += 1

    async def _ask_until(
        self, chat: Chat, release: Callable[..., Awaitable[None]]
    ) -> tuple[Judgement | CallFailure, int]:
        """The judgement, or the failure after which a row is not tried again; how many rows had failed before."""
        characters = sum(len(message["content"]) for message in chat)
        tries = refused = refused_alone = 0
        while True:
            call = await self._pace.start(characters)
            failures_before = self._failures
            if self._stopped is not None:
                self._pace.failed(call)
                return CallFailure(self._stopped, self._stopped, may_be_the_row=False), failures_before
            outcome = await self._call(chat, call, repair=True)
            if isinstance(outcome, Judgement):
                return outcome, failures_before
            if outcome.too_many:
                refused += 1
                if refused > _REFUSED_BEFORE_ASKING and self._stopped is None:
                    refused_alone += isinstance(
                        await self._call(self._form.question, await self._pace.start(100)), Judgement
                    )
                    if refused_alone >= _REFUSED_ALONE:
                        alone = f"refused {refused} times while others were taken: {outcome.error}"
                        return outcome._replace(error=alone, may_be_the_row=True), failures_before
                continue
            await self._look_whether_it_works(outcome, release)
            if not outcome.again or tries == self._spec.max_retries or self._stopped is not None:
                return outcome, failures_before
            await asyncio.sleep(back_off(tries))
            tries += 1

    async def _look_whether_it_works(self, failure: CallFailure, release: Callable[..., Awaitable[None]]) -> None:
        """After as many failed calls in a row as cannot be chance: whether it is the rows or the endpoint."""
        self._failed_calls += 1
        # What a refused key says is no chance.
        no_chance = (failure.for_all and not failure.may_be_the_row) or (failure.at_once and not self._answered)
        enough = 1 if no_chance else max(8, self._spec.concurrency)
        async with self._asking:
            if self._failed_calls < enough or self._stopped is not None:
                return
            failures_before = self._failures
            _log.warning("grader: %d calls failed in a row; asking whether the endpoint works", self._failed_calls)
            with self._pace.shut():
                works = await self._works(self._spec.max_retries)
            if works:
                self._failed_calls = 0
                await release(True, before=failures_before)
            elif self._failed_calls >= enough:  # and no later call was answered meanwhile
                self._stop(failure.remedy, failure.again)

    def _stop(self, why: str, may_work_again: bool = False) -> None:
        if self._stopped is None:
            _log.warning("%s Nothing more is asked in this run.", why)
            self._stopped, self._may_work_again = why, may_work_again
        self._pace.open_to_all()

    def _ended(self, last: CallFailure | None = None) -> DselectError:
        """What is raised where nothing was answered. last: the last failure, for a session that nobody stopped."""
        why, again = self._stopped or "", self._may_work_again
        if self._stopped is None and last is not None:
            why, again = last.remedy, last.again
        return (UnreachableError if again else DselectError)(why)

    async def learn(self) -> Dialect:
        """The dialect in which the endpoint answers the small question.

        Raises DselectError with what to do about it where it answers in none, or a cap leaves no room for the question.
        """
        outcome = await self._probe(self._spec.max_retries)
        if not isinstance(outcome, Judgement):
            raise self._ended(outcome)
        return self._dialect

    async def _works(self, retries: int = 1) -> bool:
        """Whether the endpoint answers a small question, so that the failures are the rows' own."""
        return isinstance(await self._probe(min(retries, self._spec.max_retries)), Judgement)

    async def _probe(self, retries: int) -> Judgement | CallFailure:
        """What came of a small question, after so many tries more."""
        for tried in range(retries + 1):
            if tried:
                await asyncio.sleep(back_off(tried - 1))
            outcome = await self._call(self._form.question)
            if isinstance(outcome, Judgement) or not (outcome.again or outcome.too_many):
                break
        return outcome

    async def _call(self, chat: Chat, call: Call | None = None, *, repair: bool = False) -> Judgement | CallFailure:
        """The judgement; a failure where no chat completion came back. Nothing that an endpoint does raises.

        call: its turn, which ends with it; None: it waits for none. repair: a reply without a grade is asked once more.
        """
        try:
            body, headers = await self._ask(chat, call)
            judgement = read_completion(body, self._spec.max_tokens, self._form.read)
        except CapReachedError as reached:
            if call is not None:
                self._pace.failed(call)
            self._stop(f"grader: {reached}.")
            return CallFailure(str(reached), self._stopped or "", for_all=True, may_be_the_row=False)
        except Exception as error:
            failure = failure_of(error, str(self._client.base_url), self._spec)
            if call is not None:
                self._end_failed(call, failure, _headers_of(error))
            return failure
        if call is not None:
            # Another call may go now. Before it is sent its own line in the ledger is written, and the answer with it.
            self._answered += 1
            self._failed_calls = 0
            tokens = None
            if judgement.prompt_tokens is not None:
                tokens = judgement.prompt_tokens + (judgement.completion_tokens or 0)
            self._pace.answered(call, tokens, (allowance(headers, "requests"), allowance(headers, "tokens")))
        again = self._form.repair(chat, body, judgement.error) if repair and judgement.error is not None else None
        return judgement if again is None else await self._repaired(again, judgement)

    async def _repaired(self, again: Chat, first: Judgement) -> Judgement:
        """What the judge says when it is shown what is wrong; where it is not answered, its first reply stands."""
        call = await self._pace.start(sum(len(message["content"]) for message in again))
        if self._stopped is not None:
            self._pace.failed(call)
            return first
        second = await self._call(again, call)
        return second.after(first) if isinstance(second, Judgement) else first

    def _end_failed(self, call: Call, failure: CallFailure, headers: Mapping[str, str]) -> None:
        wait = retry_after(headers)
        if not failure.too_many:
            self._pace.failed(call, min(wait, self._spec.max_wait_seconds) if wait is not None else None)
        elif self._pace.refused(call, wait) > self._spec.max_wait_seconds:
            self._stop(failure.remedy)

    async def _ask(self, chat: Chat, call: Call | None) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of one reply, in the dialect the endpoint has shown to take; if refused, in another."""
        from openai import BadRequestError, UnprocessableEntityError

        dialect, proven = self._dialect, self._proven
        while True:
            try:
                reply = await self._reply(chat, dialect)
            except (BadRequestError, UnprocessableEntityError) as error:
                another = dialect.after(error, proven=proven)
                if another is None:
                    if dialect.refuses_logprobs(error):
                        raise NoLogprobsError(f"it refuses log-probabilities: {describe(error)}") from None
                    raise
                dialect, proven = another, False
                if call is not None:
                    self._pace.asked_again(call)
            else:
                if self._dialect.temperature and not dialect.temperature:
                    _log.warning("grader: %s takes no temperature, and grades with its own", self._spec.model)
                self._dialect, self._proven = dialect, True
                return reply

    async def _reply(self, chat: Chat, dialect: Dialect) -> tuple[bytes, Mapping[str, str]]:
        import httpx2
        from openai import AsyncStream

        options = dialect.options(self._spec, self._form.schema)
        body: dict[str, Any] = {"model": self._spec.model, "messages": chat, **options}
        # Who waits for room under a cap is under way, and its time has not begun.
        async with (
            self._meter.call(chat, self._spec.max_tokens) as metered,
            asyncio.timeout(self._spec.timeout_seconds),
        ):
            # As bytes: the client's own way takes 1 ms more for what is not needed here, holds a reply of any size,
            # and takes any body for a completion.
            response: Any = await self._client.post(
                self._address, cast_to=httpx2.Response, body=body, stream=True, stream_cls=AsyncStream[Any]
            )
            try:
                reply = await _read_bounded(response)
                metered.answered(reply)
                return reply, response.headers
            finally:
                await response.aclose()


def back_off(tries: int) -> float:
    """Seconds before the next try, as the official client has them."""
    return min(0.5 * 2.0 ** min(tries, 10), 8.0) * random.uniform(0.75, 1)


def _headers_of(error: Exception) -> Mapping[str, str]:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers if isinstance(headers, Mapping) else {}


async def _read_bounded(response: Any) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            raise NotACompletionError(f"the reply is not a chat completion: it is larger than {MOST_BYTES:,} bytes")
    return bytes(body)
