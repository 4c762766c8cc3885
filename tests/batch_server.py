"""The OpenAI-compatible server with files and batches: /v1/files, /v1/batches, beside chat completions.

    with BatchServer(lambda request: rating(4)) as server:
        ...  # server.asked: how often each row was answered in batches, which is what would be billed

A batch runs its requests through `answer` when it is made, and shows its output after `looks` looks at it, or when
`hold` is taken back. `faults` change what the server does.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.openai_server import OpenAIServer, Reply, Request, error

Line = dict[str, Any]


@dataclass
class Faults:
    """upload, create, content: called with how often it was asked for before; a Reply is sent instead of the answer.

    made: likewise, but the batch is made all the same. ends: of a batch (its number from 0, its lines) → its status
    and the lines that are answered. errors: of a failed batch. output: the text of a finished file → what is sent.
    """

    upload: Callable[[int], Reply | None] = lambda n: None
    create: Callable[[int], Reply | None] = lambda n: None
    made: Callable[[int], Reply | None] = lambda n: None
    content: Callable[[int], Reply | None] = lambda n: None
    ends: Callable[[int, list[Line]], tuple[str, list[Line]]] = lambda n, lines: ("completed", lines)
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: Callable[[str], str | bytes] = lambda text: text


class BatchServer(OpenAIServer):
    def __init__(self, answer: Callable[[Request], Reply], looks: int = 0, hold: bool = False) -> None:
        super().__init__(answer)
        self.faults, self.looks, self.hold = Faults(), looks, hold
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.billed = [0, 0]  # prompt and completion tokens, live and in batches
        self._uploading = threading.Lock()

    @property
    def live(self) -> int:
        """Calls that came one by one."""
        return sum(request.path.endswith("/chat/completions") for request in self.requests)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        if not path.endswith(("/files", "/batches")):
            super()._handle(handler)
            return
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._uploading:
            reply = self._upload(data) if path.endswith("/files") else self._create(json.loads(data))
        self._send(handler, reply)

    def _count(self, name: str) -> int:
        self.calls[name] += 1
        return self.calls[name] - 1

    def _upload(self, data: bytes) -> Reply:
        if fault := self.faults.upload(self._count("upload")):
            return fault
        boundary = data.split(b"\r\n", 1)[0]
        file = next(part for part in data.split(boundary) if b"filename=" in part).split(b"\r\n\r\n", 1)[1]
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = file.removesuffix(b"\r\n")
        return Reply({"id": file_id, "object": "file", "purpose": "batch"})

    def _create(self, body: dict[str, Any]) -> Reply:
        n = self._count("create")
        if fault := self.faults.create(n):
            return fault
        if body["input_file_id"] not in self.files:
            return error(400, "no such file")
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        number = len(self.batches)
        status, answered = self.faults.ends(number, lines)
        batch_id = f"batch_{number}"
        out, bad = self._run([] if status == "failed" else answered, lines, status)
        batch = {
            "id": batch_id, "object": "batch", "status": "validating", "created_at": int(time.time()),
            "endpoint": body["endpoint"], "completion_window": "24h", "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"), "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        end = {"status": status}
        for name, text in (("output_file_id", out), ("error_file_id", bad)):
            if text:
                end[name] = f"{batch_id}-{name}"
                sent = self.faults.output(text)
                self.files[end[name]] = sent if isinstance(sent, bytes) else sent.encode()
        if status == "failed":
            end["errors"] = {"object": "list", "data": self.faults.errors}  # type: ignore[assignment]
        self.batches[batch_id] = {"now": batch, "end": end, "looks": 0, "lines": lines}
        return self.faults.made(n) or Reply(batch)

    def _run(self, answered: list[Line], lines: list[Line], status: str) -> tuple[str, str]:
        """The output and error files."""
        out, bad = [], []
        ran = {line["custom_id"] for line in answered}
        for line in lines:
            custom_id = line["custom_id"]
            if custom_id not in ran:
                if status in ("expired", "cancelled"):
                    unasked = {"code": f"batch_{status}", "message": "not executed"}
                    bad.append({"id": "x", "custom_id": custom_id, "response": None, "error": unasked})
                continue
            self.asked[custom_id.split("-")[0]] += 1
            reply = self.answer(Request("batch", {}, line["body"], int(custom_id.split("-")[1])))
            if isinstance(reply.body, dict) and (usage := reply.body.get("usage")):
                self.bill(usage)
            response = {"status_code": reply.status, "request_id": "r", "body": reply.body}
            done = {"id": "x", "custom_id": custom_id, "response": response, "error": None}
            (out if reply.status < 400 else bad).append(done)
        return tuple("".join(json.dumps(line) + "\n" for line in each) for each in (out, bad))  # type: ignore[return-value]

    def bill(self, usage: dict[str, int]) -> None:
        self.billed[0] += usage["prompt_tokens"]
        self.billed[1] += usage["completion_tokens"]

    def _get(self, path: str) -> Reply:
        parts = urlsplit(path)
        names = parts.path.split("/")[2:]
        if names == ["batches"]:
            self._count("list")
            newest = [each["now"] for each in reversed(self.batches.values())]
            after = parse_qs(parts.query).get("after", [None])[0]
            begin = next((i + 1 for i, each in enumerate(newest) if each["id"] == after), 0)
            page = newest[begin : begin + 2]  # short, so that more than one is turned
            more = begin + 2 < len(newest)
            return Reply({"object": "list", "data": page, "has_more": more, "last_id": page[-1]["id"] if page else ""})
        if names[0] == "batches" and names[1] in self.batches:
            self._count("look")
            batch = self.batches[names[1]]
            batch["looks"] += 1
            if not self.hold and batch["looks"] > self.looks:
                batch["now"] |= batch["end"]
            elif batch["now"]["status"] == "validating" and batch["looks"] > 1:
                batch["now"]["status"] = "in_progress"
            return Reply(batch["now"])
        if names[0] == "files" and names[2:] == ["content"] and names[1] in self.files:
            if fault := self.faults.content(self._count("content")):
                return fault
            return Reply(self.files[names[1]], headers={"Content-Type": "application/octet-stream"})
        return error(404, f"no {path}")
