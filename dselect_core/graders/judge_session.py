"""One grading run against one endpoint: calls side by side, and what a failed call says about the endpoint or the row.

A failure may be the row's (the endpoint breaks on this text) or the endpoint's (an outage, a refused key). Which one
shows only later, so failed calls are held back: once the endpoint answers a later call they are the rows' own. When
many fail in a row, and at the end, it is asked one small question instead. If that is not answered either, the endpoint
does not work: nothing more is asked, and no row is charged with an attempt.

Trade-off: that question costs one small call, and it is asked only when calls have failed.
"""

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dselect_core.errors import DselectError
from dselect_core.graders.judge_reply import Judgement, NotACompletionError, read_completion, shorten
from dselect_core.kinds import NOT_TRIED
from dselect_core.progress import Progress
from dselect_core.settings.grader_spec import GraderSpec

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_KEY = "OPENAI_API_KEY"
MOST_BYTES = 8 * 2**20
"""Of a reply that is read at all."""

Chat = list[dict[str, str]]
_QUESTION: Chat = [{"role": "user", "content": 'Reply with this JSON object: {"rating": 3, "reason": "a test"}'}]


class _Failure(NamedTuple):
    """A call that brought no chat completion.

    remedy: what to do if the endpoint does not work. for_all: every call would fail so. may_be_the_row: others may not.
    """

    error: str
    remedy: str
    for_all: bool = False
    may_be_the_row: bool = True


class _Held(NamedTuple):
    """A failure that waits for what the endpoint does next: its number in the run, and that of the row."""

    number: int
    at: int
    failure: _Failure


class Session:
    """What the endpoint accepts, whether it still answers, and the calls that are under way."""

    def __init__(self, client: "AsyncOpenAI", spec: GraderSpec) -> None:
        self._client = client
        self._spec = spec
        self._json_mode = True
        self._tokens_key = "max_tokens"
        self._answered = 0
        self._failures = 0
        self._held: list[_Held] = []  # since the last call that was answered began
        self._stopped: str | None = None
        self._asking = asyncio.Lock()

    async def judge(
        self,
        total: int,
        chat_of: Callable[[int], Chat],
        progress: Progress | None,
        on_judged: Callable[[int, Judgement], None],
    ) -> list[Judgement]:
        """Judge the chats 0 … total - 1; the result is in their order. on_judged: told of each, with its number.

        Raises DselectError when the endpoint answered none, and each failed for a reason that all would meet.
        """
        results: list[Judgement | None] = [None] * total
        slots = asyncio.Semaphore(self._spec.concurrency)
        done = 0

        def finish(at: int, judgement: Judgement) -> None:
            nonlocal done
            results[at] = judgement
            on_judged(at, judgement)
            done += 1
            if progress is not None:
                progress(done, total)

        def release(of_rows: bool, before: float = math.inf) -> None:
            held = [each for each in self._held if each.number < before]
            self._held = self._held[len(held) :]
            for _, at, failure in held:
                is_attempt = of_rows and failure.may_be_the_row
                finish(at, Judgement(error=failure.error if is_attempt else NOT_TRIED + failure.error))

        async def one(at: int) -> None:
            try:
                await self._refuse_or_ask(at, chat_of, finish, release)
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for at in range(total):
                    # Taken before the task is made, so that a large table is not a large heap of tasks.
                    await slots.acquire()
                    group.create_task(one(at))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if self._held:
            works = self._stopped is None and await self._works()
            last = self._held[-1].failure
            if not works and not self._answered and (last.for_all or self._stopped is not None):
                raise DselectError(self._stopped or last.remedy)
            release(works)
        return [each if each is not None else Judgement(error=f"{NOT_TRIED}not asked") for each in results]

    async def _refuse_or_ask(
        self,
        at: int,
        chat_of: Callable[[int], Chat],
        finish: Callable[[int, Judgement], None],
        release: Callable[..., None],
    ) -> None:
        if self._stopped is not None:
            if not self._answered:
                raise DselectError(self._stopped)
            # Grades already bought are kept; the others are asked again by the next run.
            finish(at, Judgement(error=NOT_TRIED + self._stopped))
            return
        failures_before = self._failures
        outcome = await self._call(chat_of(at))
        if isinstance(outcome, Judgement):
            self._answered += 1
            # A call that was under way as another failed may have been answered before the endpoint broke.
            release(True, before=failures_before)
            finish(at, outcome)
            return
        self._held.append(_Held(self._failures, at, outcome))
        self._failures += 1
        # As many in a row as cannot be chance with this many calls under way.
        enough = max(8, 2 * self._spec.concurrency)
        async with self._asking:
            if len(self._held) >= enough and self._stopped is None:
                failures_before = self._failures
                if await self._works():
                    release(True, before=failures_before)
                elif len(self._held) >= enough:  # and no later call was answered meanwhile
                    self._stopped = outcome.remedy

    async def _works(self) -> bool:
        """Whether the endpoint answers a small question, so that the failures are the rows' own."""
        return isinstance(await self._call(_QUESTION, retries=min(1, self._spec.max_retries)), Judgement)

    async def _call(self, chat: Chat, retries: int | None = None) -> Judgement | _Failure:
        """The judgement; a failure where no chat completion came back. Nothing that an endpoint does raises.

        retries: None: those of the settings.
        """
        try:
            return read_completion(await self._ask(chat, retries), self._spec.max_tokens)
        except Exception as error:
            return _failure(error, str(self._client.base_url), self._spec)

    async def _ask(self, chat: Chat, retries: int | None) -> bytes:
        """The body of one reply, in the dialect the endpoint has shown to accept; a 400 is asked again in the other."""
        from openai import BadRequestError

        json_mode, tokens_key = self._json_mode, self._tokens_key
        while True:
            try:
                body = await self._body(chat, json_mode, tokens_key, retries)
            except BadRequestError as error:
                if tokens_key == "max_tokens" and "max_completion_tokens" in str(error):
                    tokens_key = "max_completion_tokens"
                elif json_mode:
                    json_mode = False
                else:
                    raise
            else:
                self._json_mode, self._tokens_key = json_mode, tokens_key
                return body

    async def _body(self, chat: Chat, json_mode: bool, tokens_key: str, retries: int | None) -> bytes:
        from openai import OpenAIError

        options: dict[str, Any] = {"temperature": self._spec.temperature, tokens_key: self._spec.max_tokens}
        if json_mode:
            options["response_format"] = {"type": "json_object"}
        # Read here and not by the client, which holds a reply of any size and takes any body for a completion.
        client = self._client if retries is None else self._client.with_options(max_retries=retries)
        create: Any = client.chat.completions.with_streaming_response.create
        for retries_left in range(self._spec.max_retries if retries is None else retries, -1, -1):
            try:
                async with create(model=self._spec.model, messages=chat, **options) as response:
                    async with asyncio.timeout(self._spec.timeout_seconds):
                        return await _read_bounded(response)
            except (OpenAIError, NotACompletionError):
                raise  # after the client's own retries
            except Exception:  # the connection broke while the body came
                if not retries_left:
                    raise
        raise AssertionError("a last try returns or raises")


async def _read_bounded(response: Any) -> bytes:
    body = bytearray()
    async for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            raise NotACompletionError(f"the reply is not a chat completion: it is larger than {MOST_BYTES:,} bytes")
    return bytes(body)


def _failure(error: Exception, base_url: str, spec: GraderSpec) -> _Failure:
    """What a failed call was, and what to do about it if all others fail too."""
    import openai

    said = _describe(error)
    key = spec.api_key.env if spec.api_key else DEFAULT_KEY if spec.base_url is None else None
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        where = f"the key in {key}" if key else "grader.api_key (none is given; name its variable as {env: NAME})"
        remedy = f"grader: {base_url} refuses access ({said}). Check {where}, and that it may use {spec.model}."
        # A 403 may be a moderator's about this very text.
        return _Failure(said, remedy, for_all=True, may_be_the_row=isinstance(error, openai.PermissionDeniedError))
    if isinstance(error, openai.NotFoundError):
        remedy = f"{base_url} has no {spec.model} ({said}). Check grader.model and grader.base_url (mostly …/v1)."
        return _Failure(said, f"grader: {remedy}", for_all=True)
    if isinstance(error, openai.BadRequestError) and error.code in ("unsupported_value", "unsupported_parameter"):
        remedy = f"{base_url} does not accept these settings for {spec.model} ({said}). Change them under grader."
        return _Failure(said, f"grader: {remedy}", for_all=True)
    if isinstance(error, openai.RateLimitError):
        if error.code == "insufficient_quota":
            remedy = f"grader: {base_url} has no credit left ({said}). Add credit for the key in {key} and run again."
            return _Failure(said, remedy, for_all=True, may_be_the_row=False)
        remedy = f"grader: {base_url} takes no more calls now ({said}). Run again later, or lower grader.concurrency."
        return _Failure(said, remedy, may_be_the_row=False)
    read_timeout = isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ != "ConnectTimeout"
    if isinstance(error, openai.APIConnectionError) and not read_timeout:
        remedy = f"grader: no connection to {base_url} ({said}). Check grader.base_url, and that its server runs."
        # It may break on this row: then others are answered.
        return _Failure(said, remedy, for_all=True)
    return _Failure(said, f"grader: {base_url} answers nothing ({said}). Run again when it does.")


def _describe(error: Exception) -> str:
    import openai

    if isinstance(error, NotACompletionError):
        return str(error)
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {shorten(_server_message(error))}"
    if isinstance(error, openai.APITimeoutError | TimeoutError) or "Timeout" in type(error).__name__:
        return "the endpoint did not answer in time (grader.timeout_seconds)"
    if isinstance(error, openai.APIConnectionError):
        return shorten(str(error.__cause__ or error))
    return shorten(f"{type(error).__name__}: {error}")


def _server_message(error: Any) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.message)
