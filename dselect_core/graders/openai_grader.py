"""An external LLM as judge, over any OpenAI-compatible chat-completions endpoint (D3's `d3`).

Scale `rating`: it rates correctness, helpfulness and reliability 1–5 as JSON; grade = (rating - 1)/4 clipped to
[0.05, 1] [ours]. Scale `probability`: it answers yes or no (yes_no.py). Judgements are handed on as they arrive, for
the caller to write. meter.py counts what they cost.

A failed call is that sample's null with a reason. Only what no sample can get past (key refused, nobody
answering, no such model, no credit left) ends the grading, with what to do about it (judge_session.py). What of a
reply is a grade is said in judge_reply.py. A stricter reading there leaves VERSION as it is: good grades stay good, and
only replies that nobody should have taken for a grade are refused.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dselect_core.errors import DselectError
from dselect_core.graders.call_failure import DEFAULT_KEY
from dselect_core.graders.judge_form import JudgeForm
from dselect_core.graders.judge_prompt import Messages
from dselect_core.graders.judge_reply import Judgement
from dselect_core.graders.judge_request import Dialect
from dselect_core.graders.judge_session import Session
from dselect_core.graders.meter import Meter
from dselect_core.progress import Progress
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.stop import until_stopped

VERSION = 1
T = TypeVar("T")


def api_key(spec: GraderSpec) -> str:
    """The key from the variable the settings name. A `base_url` without `api_key` is taken to want none.

    Raises DselectError naming the variable when it is not set.
    """
    if spec.api_key is None and spec.base_url is not None:
        return "none"  # the OpenAI key is never sent to another host
    name = spec.api_key.env if spec.api_key is not None else DEFAULT_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        raise DselectError(
            f"grader: the environment variable {name} is not set, and the key for {spec.model} is read from it. "
            f"Set it (export {name}=…), name another in grader.api_key, or take the grader out to use the builtin one."
        )
    return key


def judge(
    samples: Sequence[tuple[str, Messages]],
    spec: GraderSpec,
    meter: Meter,
    progress: Progress | None = None,
    keep: Callable[[list[tuple[int, Judgement]]], None] = lambda judged: None,
) -> list[Judgement]:
    """Judge (sample_id, messages) pairs, `spec.concurrency` at a time; the result is in the order given.

    keep: given each as it arrives, with its position, for the caller to write.

    Raises DselectError for a missing key or rubric, and when every call fails for a reason that is not the sample's.
    """
    key, form = api_key(spec), JudgeForm.of(spec)
    rubric = form.prompt.rubric(spec)
    if not samples:
        return []

    async def run() -> list[Judgement]:
        async with _session(spec, form, meter, key) as session:
            return await session.judge(len(samples), lambda at: form.prompt.chat(*samples[at], rubric), progress, keep)

    return _run(run())


def learn_dialect(spec: GraderSpec, meter: Meter) -> Dialect:
    """How the endpoint takes requests, from its answers to a small question.

    Raises DselectError with what to do about it where it does not answer.
    """
    key, form = api_key(spec), JudgeForm.of(spec)

    async def run() -> Dialect:
        async with _session(spec, form, meter, key) as session:
            return await session.learn()

    return _run(run())


@asynccontextmanager
async def _session(spec: GraderSpec, form: JudgeForm, meter: Meter, key: str) -> AsyncIterator[Session]:
    from httpx2 import Limits
    from openai import AsyncOpenAI, DefaultAioHttpClient

    # The default transport looks through all connections at each call: at 256 under way that is half of the work.
    limits = Limits(max_connections=spec.concurrency + 1, max_keepalive_connections=spec.concurrency + 1)
    transport = DefaultAioHttpClient(timeout=spec.timeout_seconds, limits=limits)
    async with AsyncOpenAI(
        api_key=key, base_url=spec.base_url, timeout=spec.timeout_seconds, max_retries=0, http_client=transport
    ) as client:
        if client.base_url.userinfo:  # sent as a header; aiohttp refuses an address that holds it beside one
            transport.auth = (client.base_url.username, client.base_url.password)
            client.base_url = client.base_url.copy_with(userinfo=b"")
        # Looking through all that was there before (torch's modules) for garbage would be a tenth of the work.
        gc.freeze()
        try:
            yield Session(client, spec, form, meter)
        finally:
            gc.unfreeze()


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, also from a notebook or another place where an event loop already runs. It ends on a stop."""
    coroutine = until_stopped(coroutine)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
