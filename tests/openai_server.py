"""A real HTTP server on loopback that speaks chat completions, scripted by a function of the request.

    with OpenAIServer(lambda request: rating(4)) as server:
        ...  # server.base_url, server.requests, server.busiest

Requests are handled in threads, so concurrency, order of arrival and retries are the real ones.
"""

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server answers: `body` as JSON (or as it is, for text and bytes), after `delay` seconds.

    drip: seconds between two bytes of it.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0


@dataclass(frozen=True)
class Request:
    """One call as it arrived. `attempt` counts calls with this very body, from 1."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    attempt: int

    @property
    def text(self) -> str:
        """Everything the judge was sent, roles aside."""
        return "\n".join(m["content"] for m in self.body["messages"])


def completion(
    content: Any,
    finish: str = "stop",
    usage: tuple[int, int] | None = (100, 10),
    delay: float = 0.0,
    **message: Any,
) -> Reply:
    """A chat completion whose only choice says `content`."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "test",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}},
        ],
    }  # fmt: skip
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body, delay=delay)


def rating(value: Any, reason: str = "because", **options: Any) -> Reply:
    return completion(json.dumps({"rating": value, "reason": reason}), **options)


def token(text: str, logprob: float, top: dict[str, float] | None = None) -> dict[str, Any]:
    """One entry of `logprobs.content`. top: {token: log-probability} of the likeliest."""
    listed = [{"token": other, "logprob": value, "bytes": list(other.encode())} for other, value in (top or {}).items()]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": listed}


def with_logprobs(content: str, tokens: list[dict[str, Any]] | None, **options: Any) -> Reply:
    """A chat completion with the log-probabilities of its tokens; None: as servers that do not know of them reply."""
    reply = completion(content, **options)
    if tokens is not None:
        reply.body["choices"][0]["logprobs"] = {"content": tokens}
    return reply


def yes_or_no(probabilities: dict[str, float], **options: Any) -> Reply:
    """The likeliest of these tokens as the whole answer, with the probabilities of all."""
    top = {text: math.log(p) for text, p in probabilities.items()}
    said = max(top, key=lambda text: top[text])
    return with_logprobs(said, [token(said, top[said], top)], **options)


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI words it; a retry of it is asked for at once."""
    soon = {"retry-after-ms": "5", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Reply({"error": {"message": message, "type": "test", "param": None, "code": code}}, status, soon)


class RateLimit:
    """Answers as `answer` does, but takes only `calls` in any `seconds`; the others are refused with 429.

    retry_after: whether a refusal says when a call is taken again. told: the limit is a bucket that is filled again all
    the time, and every answer has OpenAI's x-ratelimit headers.
    """

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        calls: int,
        seconds: float,
        retry_after: bool = False,
        told: bool = False,
    ) -> None:
        self.answer, self.calls, self.seconds, self.retry_after, self.told = answer, calls, seconds, retry_after, told
        self.taken: list[float] = []
        self.refused = 0
        self._used, self._used_at = 0.0, time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            now = time.monotonic()
            wait = self._full_for(now)
            if wait > 0:
                self.refused += 1
            else:
                self.taken.append(now)
                self._used += 1
            used = self._used
        if wait > 0:
            again = {"retry-after-ms": str(round(1000 * wait) + 1)} if self.retry_after else {}
            return Reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, again)
        reply = self.answer(request)
        if not self.told:
            return reply
        headers = {
            "x-ratelimit-limit-requests": str(self.calls),
            "x-ratelimit-remaining-requests": str(int(self.calls - used)),
            "x-ratelimit-reset-requests": f"{round(1000 * self.seconds * used / self.calls)}ms",
        }
        return replace(reply, headers={**reply.headers, **headers})

    def _full_for(self, now: float) -> float:
        """Seconds until a call is taken again; not positive: it is."""
        if self.told:
            self._used = max(0.0, self._used - (now - self._used_at) * self.calls / self.seconds)
            self._used_at = now
            return (self._used + 1 - self.calls) * self.seconds / self.calls
        return self.taken[-self.calls] + self.seconds - now if len(self.taken) >= self.calls else 0.0


class OpenAIServer:
    """Serves `answer(request)` on a free port of 127.0.0.1 while the context lasts."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.busiest = 0
        self._busy = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._handle(self)

            def do_GET(self) -> None:
                owner._send(self, owner._get(self.path))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def _get(self, path: str) -> Reply:
        """Where a redirect leads: a page for people."""
        return Reply("<html>Log in", headers={"Content-Type": "text/html"})

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        with self._lock:
            self._seen[raw] = self._seen.get(raw, 0) + 1
            request = Request(
                handler.path, {k.lower(): v for k, v in handler.headers.items()}, json.loads(raw), self._seen[raw]
            )
            self.requests.append(request)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            reply = self.answer(request)
            time.sleep(reply.delay)
        finally:
            with self._lock:
                self._busy -= 1
        self._send(handler, reply)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if isinstance(reply.body, bytes):
            data = reply.body
        else:
            data = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        try:
            handler.send_response(reply.status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **reply.headers,
            }.items():
                handler.send_header(name, value)
            handler.end_headers()
            if reply.drip:
                for byte in data:
                    handler.wfile.write(bytes([byte]))
                    time.sleep(reply.drip)
            else:
                handler.wfile.write(data)
            if reply.headers.get("Content-Length", str(len(data))) != str(len(data)):
                handler.close_connection = True  # a body that is cut
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has given up waiting

    def __enter__(self) -> "OpenAIServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
