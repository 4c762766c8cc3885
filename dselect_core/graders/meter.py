"""Counts what calls to a judge cost as they are made, and stops before the one that would cross a cap.

Before a call the most that it may take is reserved: a token for each byte of what is sent, for no tokenizer makes more
of it, and the longest answer that it may give. When it has ended, what it took is spent and the rest is free again. A
call that does not fit waits for those under way; when there is none, the cap is reached. So the cap holds whatever is
under way side by side.

A call that ends without saying what it took (no usage, a timeout, a kill) stays reserved: it may have been billed.

Trade-offs: near the cap fewer calls are under way at once, and the last few cents, too few for a call at its most, are
not spent. The cap of a month is held across processes by having one grade at a time, where the storage is a local disk;
in an object store two that grade at the same time do not see one another until they end.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.graders.spend import (
    ANSWERED,
    CALLS,
    REFUSED,
    UNKNOWN,
    Ledger,
    current_purpose,
    in_month,
    month_of,
)
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.storage.appender import Appender
from dselect_core.storage.folder_lock import one_at_a_time
from dselect_core.storage.group_commit import GroupCommit

_PER_MESSAGE, _PER_CALL = 16, 256
"""Tokens that an endpoint may add to what is sent: roles, a schema, a word of its own before it."""
_ROUNDING = 1e-9  # sums of dollars are not exact


class CapReachedError(DselectError):
    """Another call could cross a cap, so it was not made."""


@dataclass
class Call:
    """A call under way. usd: reserved for it."""

    call_id: str
    begun_at: datetime
    most_prompt_tokens: int
    most_completion_tokens: int
    usd: float
    tokens: tuple[int | None, int | None] = (None, None)
    is_answered: bool = False

    def answered(self, body: bytes) -> None:
        """Note what a reply says that it took. Called before the reply is judged: an odd one is billed too."""
        self.is_answered = True
        self.tokens = usage_of(body)


class Meter:
    """Of one grading. Made by `open_meter`, which also writes the ledger."""

    def __init__(self, spec: GraderSpec, earlier: pl.DataFrame | None = None, appender: Appender | None = None) -> None:
        """earlier: calls of the ledger that may count against the caps. appender: of the ledger; None: none is kept."""
        self._spec = spec
        self._appender = appender
        self._purpose = current_purpose()
        self._price = spec.price
        self._has_cap = has_cap(spec)
        self._month = month_of(datetime.now(UTC))
        self._under_way: dict[str, Call] = {}
        self._settled: asyncio.Event | None = None
        self._lines = GroupCommit(self._write)
        self._of_run = self._of_month = 0.0
        if earlier is not None:
            if spec.name is not None:  # the caps of others are theirs; what no name was kept of may be this one's
                earlier = earlier.filter(pl.col("judge").is_null() | (pl.col("judge") == spec.name))
            of_run, of_month = pl.col("run") == self._purpose.run, in_month(self._month)
            self._of_run = float(earlier.filter(of_run)["usd_at_most"].sum())
            self._of_month = float(earlier.filter(of_month)["usd_at_most"].sum())

    @contextlib.asynccontextmanager
    async def call(self, chat: Sequence[Mapping[str, str]], most_completion_tokens: int) -> AsyncIterator[Call]:
        """A call, begun when it fits under the caps. Say `answered` of it with the body of its reply.

        Raises CapReachedError where it does not fit, and nothing is under way that may leave room.
        """
        call = await self._reserve(chat, most_completion_tokens)
        try:
            yield call
        except BaseException as error:
            if not call.is_answered and (body := _body_of(error)) is not None:
                call.answered(body)
            written = self._settle(call, is_free=_is_free(error))
            if isinstance(error, Exception):  # who is cancelled waits for nothing more
                await written
            raise
        await self._settle(call, is_free=False)

    async def _reserve(self, chat: Sequence[Mapping[str, str]], most_completion_tokens: int) -> Call:
        most_prompt_tokens = most_prompt_tokens_of(chat)
        usd = 0.0 if self._price is None else self._price.usd(most_prompt_tokens, most_completion_tokens)
        while True:
            month = month_of(datetime.now(UTC))
            if month != self._month:
                self._month, self._of_month = month, 0.0
            if not self._has_cap or self._crossed(usd + sum(call.usd for call in self._under_way.values())) is None:
                break
            if crossed := self._crossed(usd):  # whatever those under way take
                raise CapReachedError(crossed)
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()
        call = Call(uuid4().hex, datetime.now(UTC), most_prompt_tokens, most_completion_tokens, usd)
        self._under_way[call.call_id] = call
        try:
            await self._lines.kept((call, None))
        except BaseException:
            self._settle(call, is_free=True)  # nothing was sent
            raise
        return call

    def fitting(
        self, chats: Iterable[Sequence[Mapping[str, str]]], most_completion_tokens: int
    ) -> tuple[int, str | None]:
        """How many of the chats, from the first, may be asked together, and what cap the next one would cross."""
        count, usd = 0, 0.0
        for chat in chats:
            if self._price is not None:
                usd += self._price.usd(most_prompt_tokens_of(chat), most_completion_tokens)
            if crossed := self._crossed(usd):
                return count, crossed
            count += 1
        return count, None

    def _crossed(self, usd: float) -> str | None:
        """What to say when so many dollars more cross a cap."""
        spec = self._spec
        if spec.max_usd is not None and self._of_run + usd > spec.max_usd * (1 + _ROUNDING):
            return (
                f"the cap is reached: {spec.key}.max_usd of ${spec.max_usd:g} a refresh. Run again to go on from here, "
                "or raise it"
            )
        if spec.max_usd_per_month is not None and self._of_month + usd > spec.max_usd_per_month * (1 + _ROUNDING):
            return (
                f"the cap is reached: {spec.key}.max_usd_per_month of ${spec.max_usd_per_month:g}, in {self._month}. "
                "Run again next month to go on from here, or raise it"
            )
        return None

    def _settle(self, call: Call, *, is_free: bool) -> asyncio.Future[None]:
        """A call has ended. The future is done when the ledger says so."""
        del self._under_way[call.call_id]
        took, outcome = call.usd, UNKNOWN
        prompt, completion = call.tokens
        if prompt is not None and completion is not None:
            took, outcome = 0.0 if self._price is None else self._price.usd(prompt, completion), ANSWERED
        elif is_free:
            took, outcome = 0.0, REFUSED
        self._of_run += took
        if month_of(call.begun_at) == self._month:
            self._of_month += took
        if self._settled is not None:
            self._settled.set()
            self._settled = None
        return self._lines.kept((call, outcome))

    def _write(self, lines: list[tuple[Call, str | None]]) -> None:
        if self._appender is not None:
            self._appender.add(pl.DataFrame([self._line(*line) for line in lines], schema=CALLS))

    def _line(self, call: Call, outcome: str | None) -> dict[str, Any]:
        return {
            "call_id": call.call_id,
            "begun_at": call.begun_at,
            "run": self._purpose.run,
            "source": self._purpose.source,
            "judge": self._spec.name,
            "model": self._spec.model,
            "usd_prompt": None if self._price is None else self._price.prompt,
            "usd_completion": None if self._price is None else self._price.completion,
            "most_prompt_tokens": call.most_prompt_tokens,
            "most_completion_tokens": call.most_completion_tokens,
            "prompt_tokens": call.tokens[0],
            "completion_tokens": call.tokens[1],
            "outcome": outcome,
        }


@contextlib.contextmanager
def open_meter(spec: GraderSpec, ledger: Ledger) -> Iterator[Meter]:
    """The meter of a grading, for the current purpose. With a cap of a month it waits until no other grades."""
    waiting = f"{spec.key}.max_usd_per_month: another process grades; this one waits until it has ended."
    alone = one_at_a_time(ledger.root, waiting) if spec.max_usd_per_month is not None else contextlib.nullcontext()
    with alone:
        earlier = [ledger.calls(month, spec.price) for month in ledger.months()[-2:]] if has_cap(spec) else []
        with ledger.appender(month_of(datetime.now(UTC))) as appender:
            yield Meter(spec, pl.concat(earlier) if earlier else None, appender)


def has_cap(spec: GraderSpec) -> bool:
    """Whether the settings say what may be spent at most."""
    return spec.max_usd is not None or spec.max_usd_per_month is not None


def most_prompt_tokens_of(chat: Sequence[Mapping[str, str]]) -> int:
    """Tokens that a chat may be at most: one for each byte, and what an endpoint may add."""
    return _PER_CALL + sum(_PER_MESSAGE + len(each["content"].encode()) for each in chat)


def usage_of(body: bytes) -> tuple[int | None, int | None]:
    """(prompt, completion) tokens by the usage in a reply; (None, None) where it does not say."""
    try:
        usage = json.loads(body)["usage"]
        counts = [usage[key] for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None
    if any(isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**62 for count in counts):
        return None, None
    return counts[0], counts[1]


def _body_of(error: BaseException) -> bytes | None:
    """The body of the reply that an error was made of, where it says what the call took."""
    try:
        body: bytes = error.response.content  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # no reply, or one that was not read
        return None
    return body if usage_of(body) != (None, None) else None


def _is_free(error: BaseException) -> bool:
    """Whether a call that ended so was not billed: it was refused, or there was nobody to take it."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return True
    no_connection = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
    return isinstance(error, openai.APIConnectionError) and no_connection
