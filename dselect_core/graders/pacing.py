"""When the next call to an endpoint may start: how many at once, how fast they follow, and not while it says wait.

Calls wait in one line, and a call that was refused (429) joins it again at its end: while it waits it holds no place
that another could use. A refusal stops the line for all, for as long as the endpoint says (`retry-after`), else for
longer and longer; then one call goes ahead, and the others follow when it is taken. A refusal halves how many are under
way, which grows back by one a round; and what was taken between two refusals, over the whole time, is the rate that is
kept from then on. It grows slowly at first and faster the longer all goes well, so a short trouble is soon forgotten.

The start is slow (an eighth of the calls, two more with each answer), so an unknown limit is met with few calls.
Trade-offs: at a high latency the first rounds are not full; a limit that many share is met again and again, with a few
refused calls each time. Rates of the settings are kept by even distances, not in bursts; tokens are paid after a call,
so the first minute may hold one call more.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dselect_core.graders.rate_headers import Allowance

_SLACK = 0.05
"""Seconds that a call may catch up when the process was late."""
_BACK_OFF, _MOST_BACK_OFF = 0.5, 30.0
_TOKENS_PER_CHARACTER = 0.3
"""Prompt and completion together over the prompt's characters, until calls have shown it."""


@dataclass(eq=False)
class Call:
    """A call that has begun: when (seconds), how long its prompt is, and the tokens that were set aside for it."""

    began: float
    characters: int
    tokens: float


class _Lane:
    """Calls or tokens at even distances: by the settings, as the endpoint tells, and as its refusals have shown."""

    def __init__(self, per_minute: float | None) -> None:
        self._set = math.inf if per_minute is None else per_minute / (60 + _SLACK)
        self.told = self.learnt = math.inf
        self.due = -math.inf

    @property
    def per_second(self) -> float:
        return min(self._set, self.told, self.learnt)

    def take(self, now: float, amount: float) -> None:
        if (rate := self.per_second) < math.inf:
            self.due = max(self.due, now - _SLACK) + amount / rate

    def tell(self, now: float, allowance: Allowance, under_way: float, at_most: float) -> None:
        """under_way: what the calls under way still use; at_most: what as many as may be would."""
        scarce = allowance.remaining <= 2 * at_most
        self.told = allowance.refill_per_second if scarce else math.inf
        if scarce:  # what is under way may want more than remains
            self.due = max(self.due, now + max(0.0, under_way - allowance.remaining + at_most / 8) / self.told)


class Pace:
    """The line of calls to one endpoint. All of it runs in one event loop.

    Each call: `call = await pace.start(characters)`, and then once `answered`, `refused` or `failed`.
    """

    def __init__(self, concurrency: int, rpm: float | None = None, tpm: float | None = None) -> None:
        self._most = concurrency
        self._at_once = float(min(concurrency, max(8, concurrency // 8)))
        self._calls, self._tokens = _Lane(rpm), _Lane(tpm)
        self._line: deque[tuple[asyncio.Future[Call], int]] = deque()
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._shut = 0
        self._open_to_all = False
        self._not_before = -math.inf
        # From a refusal until a call is taken again.
        self._refusing = False
        self._ahead: Call | None = None
        self._refused_since: float | None = None
        self._refusals = 0  # in a row
        # What was taken since calls last began to flow.
        self._flows_since: float | None = None
        self._taken = 0
        self._grew = 0.0
        self._seen_characters = self._seen_tokens = 0

    @property
    def at_once(self) -> int:
        """Calls that may be under way now."""
        return int(self._at_once)

    async def start(self, characters: int) -> Call:
        """Wait for this call's turn. characters: of its prompt."""
        turn: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self._line.append((turn, characters))
        self._go()
        return await turn

    def answered(
        self, call: Call, tokens: int | None = None, told: tuple[Allowance | None, Allowance | None] = (None, None)
    ) -> None:
        """A reply came. tokens: prompt and completion, where it says; told: what it allows of calls and of tokens."""
        now = self._ends()
        self._refused_since = None
        self._taken += 1
        if tokens is not None:
            self._seen_characters += call.characters
            self._seen_tokens += tokens
            if (rate := self._tokens.per_second) < math.inf:
                self._tokens.due += (tokens - call.tokens) / rate
        calls_told, tokens_told = told
        if calls_told is not None:
            self._calls.tell(now, calls_told, self._under_way, self._at_once)
        if tokens_told is not None:
            self._tokens.tell(now, tokens_told, self._under_way * call.tokens, self._at_once * call.tokens)
        if call is self._ahead:
            self._flow(now)
        elif not self._refusing:
            self._grow(now)
        self._go()

    def refused(self, call: Call, retry_after: float | None) -> float:
        """The endpoint took this call for one too many. retry_after: seconds, where it says.

        Returns how many seconds it will have taken none at all when the next call goes ahead.
        """
        now = self._ends()
        if self._refused_since is None:
            self._refused_since = now
        is_ahead = call is self._ahead
        if (self._refusing and not is_ahead) or (self._flows_since or -math.inf) > call.began:
            wait = retry_after or 0.0  # of the refusals that stopped the line already
        else:
            self._refusals += 1
            longer = 2.0 ** min(self._refusals - 1, 10)
            back_off = min(_BACK_OFF * longer, _MOST_BACK_OFF) * random.uniform(0.75, 1)
            wait = back_off if retry_after is None else max(retry_after, 0.1 * back_off if is_ahead else 0)
            if not is_ahead:
                self._at_once = max(1.0, self._at_once / 2)
            self._refusing, self._ahead = True, None
        self._not_before = max(self._not_before, now + wait)
        self._go()
        return self._not_before - self._refused_since

    def failed(self, call: Call, retry_after: float | None = None) -> None:
        """The call ended in another way, which says nothing about a limit."""
        now = self._ends()
        if retry_after is not None:
            self._not_before = max(self._not_before, now + retry_after)
        if call is self._ahead:
            self._flow(now)
        self._go()

    def asked_again(self, call: Call) -> None:
        """The call was sent once more, in another form: it counts twice."""
        now = asyncio.get_running_loop().time()
        self._calls.take(now, 1)
        self._tokens.take(now, call.tokens)

    @contextmanager
    def shut(self) -> Iterator[None]:
        """No call starts meanwhile."""
        self._shut += 1
        try:
            yield
        finally:
            self._shut -= 1
            self._go()

    def open_to_all(self) -> None:
        """From now on nobody waits: for calls that will not be made any more."""
        self._open_to_all = True
        self._go()

    def _ends(self) -> float:
        self._under_way -= 1
        return asyncio.get_running_loop().time()

    def _flow(self, now: float) -> None:
        """The call that went ahead was taken: the others follow, at the rate that all of this has shown."""
        seconds = now - (self._flows_since if self._flows_since is not None else now)
        if seconds > 0 and self._taken:
            shown, kept = max(1, self._taken - 1) / seconds, self._calls.learnt
            self._calls.learnt = shown if kept == math.inf else max(min(shown, kept), 0.85 * kept)
            self._calls.due = now + 1 / self._calls.learnt
        self._refusing, self._ahead, self._refusals = False, None, 0
        self._flows_since = self._grew = now
        self._taken = 0

    def _grow(self, now: float) -> None:
        unrefused = self._calls.learnt == math.inf
        self._at_once = min(self._most, self._at_once + (2 if unrefused else 1 / self._at_once))
        if not unrefused and self._flows_since is not None:
            # By a sixth in six seconds, to the double in thirteen, and then faster still.
            by = min(0.5, 0.008 * (now - self._flows_since)) * min(1.0, now - self._grew)
            self._calls.learnt *= 1 + by
            self._grew = now

    def _go(self) -> None:
        """Let those go whose turn it is; see to it that the next one goes in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._line:
            turn, characters = self._line[0]
            if turn.done():  # who waited has given up
                self._line.popleft()
                continue
            now = loop.time()
            if not self._open_to_all:
                if self._shut or self._under_way >= self.at_once or self._ahead is not None:
                    return
                due = max(self._not_before, self._calls.due, self._tokens.due)
                if due > now:
                    self._timer = loop.call_at(due, self._go)
                    return
            self._line.popleft()
            call = Call(now, characters, self._expected_tokens(characters))
            self._calls.take(now, 1)
            self._tokens.take(now, call.tokens)
            self._under_way += 1
            if self._flows_since is None:
                self._flows_since = now
            if self._refusing:
                self._ahead = call
            turn.set_result(call)

    def _expected_tokens(self, characters: int) -> float:
        known = self._seen_characters > 0
        return characters * (self._seen_tokens / self._seen_characters if known else _TOKENS_PER_CHARACTER)
