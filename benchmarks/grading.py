"""Grading over an endpoint: how near to the ideal many calls at once come, and what a limit of calls costs.

    python -m benchmarks.grading                   # 2,000 grades at 200 ms, 64 and 256 under way
    python -m benchmarks.grading --limit 20        # 400 grades, 20 a second at most, with and without retry-after

The endpoint is a process of its own on loopback (aiohttp), so that its work is not counted as the client's; it counts
the calls. Ideal: rows x latency / calls under way. All that a grade takes in a refresh is in the time: asking, reading,
each call's lines in the ledger and each grade in the log on the disk before the next call. Memory: what the process's
peak grows by.
The ratio needs two free cores; the CPU milliseconds a row mean the same on a busy machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from upath import UPath

from benchmarks.measure import table
from dselect_core.graders.grades import GRADES, grade
from dselect_core.graders.meter import open_meter
from dselect_core.graders.spend import Ledger
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.storage.appender import Appender
from dselect_core.storage.score_store import Store

_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


def _serve(pipe: Connection, latency: float, limit: int, retry_after: bool) -> None:
    from aiohttp import web

    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": '{"rating": 4, "reason": "correct and to the point"}'},
    }
    usage = {"prompt_tokens": 400, "completion_tokens": 15}
    body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    taken: list[float] = []
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await request.read()
        now = time.monotonic()
        if limit and len(taken) >= limit and (wait := taken[-limit] + 1 - now) > 0:
            headers = {"retry-after": f"{wait:.3f}"} if retry_after else {}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
        taken.append(now)
        await asyncio.sleep(latency)
        return web.Response(body=body, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        pipe.send(runner.addresses[0][1])
        while pipe.poll() is False or pipe.recv() != "stop":
            await asyncio.sleep(0.05)
        pipe.send((asked, len(taken)))

    asyncio.run(main())


class Endpoint:
    """A server process; `asked` and `taken` are its own counts, once it has ended."""

    def __init__(self, latency: float, limit: int = 0, retry_after: bool = False) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        arguments = (theirs, latency, limit, retry_after)
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self.base_url = f"http://127.0.0.1:{self._pipe.recv()}/v1"
        self.asked = self.taken = 0

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._pipe.send("stop")
        self.asked, self.taken = self._pipe.recv()
        self._process.join()


def _samples(count: int) -> pl.DataFrame:
    """Rows of about 400 characters."""
    rows = [
        [{"role": "user", "content": f"Question {i}? " * 8}, {"role": "assistant", "content": f"Answer {i}. " * 25}]
        for i in range(count)
    ]
    columns = {"sample_id": [f"{i:032x}" for i in range(count)], "messages": rows}
    return pl.DataFrame(columns, schema={"sample_id": pl.String, "messages": _MESSAGES})


def _run(endpoint: Endpoint, count: int, concurrency: int) -> tuple[float, float, int]:
    """Wall and CPU seconds, and the rows without a grade."""
    samples, spec = _samples(count), GraderSpec(base_url=endpoint.base_url, model="m", concurrency=concurrency)
    with TemporaryDirectory() as folder:
        store = Store(UPath(folder) / "grades" / "asked", keys=GRADES.keys, retry_column=GRADES.reason_column)
        wall, cpu = time.perf_counter(), time.process_time()
        with (
            open_meter(spec, Ledger(UPath(folder) / "spend")) as meter,
            Appender(store, 4096, 30.0, GRADES.conforming, costly=True) as kept,
        ):
            graded = grade(samples, spec, emit=kept.add, meter=meter)
        return time.perf_counter() - wall, time.process_time() - cpu, graded["grade"].null_count()


def _peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--at-once", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--limit", type=int, default=0, help="calls a second that the endpoint takes")
    options = parser.parse_args()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    rows: list[list[str]] = []
    if options.limit:
        count = options.rows or 400
        for retry_after in (False, True):
            with Endpoint(options.latency, options.limit, retry_after) as endpoint:
                wall, _, lost = _run(endpoint, count, options.at_once[0])
            ideal = max(0, count - options.limit) / options.limit
            rows.append([str(retry_after), f"{endpoint.asked / count:.3f}", str(lost), f"{wall:.1f}", f"{ideal:.1f}"])
        print(table(["retry-after", "calls a row", "rows lost", "seconds", "ideal"], rows))
        return
    count = options.rows or 2_000
    for at_once in options.at_once:
        with Endpoint(options.latency) as endpoint:
            _run(endpoint, 20, 8)  # imports
            before = _peak()
            wall, cpu, lost = _run(endpoint, count, at_once)
        ideal = count * options.latency / at_once
        figures = [
            f"{wall:.2f}",
            f"{ideal:.2f}",
            f"{wall / ideal:.2f}",
            f"{1000 * cpu / count:.2f}",
            f"{_peak() - before:.0f}",
        ]
        rows.append([str(at_once), *figures, str(lost)])
    print(table(["under way", "seconds", "ideal", "ratio", "CPU ms a row", "MiB", "rows lost"], rows))


if __name__ == "__main__":
    main()
