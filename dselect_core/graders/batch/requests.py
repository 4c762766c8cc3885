"""Rows to be asked → the files of a batch: one request a line, as many as fit; and what they may cost at most."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.graders.batch.endpoint import PATH
from dselect_core.graders.batch.shelf import REQUESTS, Batch
from dselect_core.graders.judge_form import Chat
from dselect_core.graders.judge_reply import Judgement
from dselect_core.graders.meter import most_prompt_tokens_of
from dselect_core.graders.spend import CALLS, Ledger, month_of

CALL_PREFIX = "batch-"
"""How a call of the ledger begins that was made in a batch."""


@dataclass(frozen=True)
class Ask:
    """A row to be asked. number: of the call for this row, from 1. tries: of the same chat that failed before.

    first: the reply that this chat is to repair.
    """

    sample_id: str
    chat: Chat
    number: int = 1
    tries: int = 0
    first: Judgement | None = None

    @property
    def custom_id(self) -> str:
        """The same for the same attempt at the same sample."""
        return f"{self.sample_id}-{self.number}"

    def again(self, tries: int) -> "Ask":
        """The same chat once more."""
        return Ask(self.sample_id, self.chat, self.number + 1, tries, self.first)


def files_of(
    asks: Iterable[Ask], body_of: Callable[[Chat], dict[str, object]], most_rows: int, most_bytes: int
) -> Iterator[tuple[list[Ask], list[str], list[Ask]]]:
    """(asks, bodies as JSON, asks that are larger than a whole file) of one batch after the other.

    body_of: a chat → the body of its request.
    """
    group: list[Ask] = []
    bodies: list[str] = []
    too_large: list[Ask] = []
    size = 0
    for ask in asks:
        body = json.dumps(body_of(ask.chat))
        line_bytes = len(_line(ask.custom_id, body))
        if line_bytes > most_bytes:
            too_large.append(ask)
            continue
        if len(group) == most_rows or size + line_bytes > most_bytes:
            yield group, bodies, too_large
            group, bodies, too_large, size = [], [], [], 0
        group.append(ask)
        bodies.append(body)
        size += line_bytes
    if group or too_large:
        yield group, bodies, too_large


def requests_table(asks: list[Ask], bodies: list[str]) -> pl.DataFrame:
    """REQUESTS of a batch."""
    rows = [
        {
            "custom_id": ask.custom_id,
            "sample_id": ask.sample_id,
            "body": body,
            "most_prompt_tokens": most_prompt_tokens_of(ask.chat),
            "tries": ask.tries,
            "first_error": None if ask.first is None else ask.first.error,
            "first_prompt_tokens": None if ask.first is None else ask.first.prompt_tokens,
            "first_completion_tokens": None if ask.first is None else ask.first.completion_tokens,
        }
        for ask, body in zip(asks, bodies, strict=True)
    ]
    return pl.DataFrame(rows, schema=REQUESTS)


def asks_of(requests: pl.DataFrame) -> Iterator[Ask]:
    """The asks that a table of requests was made of, in its order."""
    for row in requests.iter_rows(named=True):
        first = None
        if row["first_error"] is not None:
            tokens = {name: row[f"first_{name}"] for name in ("prompt_tokens", "completion_tokens")}
            first = Judgement(error=row["first_error"], **tokens)
        number = int(row["custom_id"].rsplit("-", 1)[1])
        yield Ask(row["sample_id"], json.loads(row["body"])["messages"], number, row["tries"], first)


def request_lines(requests: pl.DataFrame) -> bytes:
    """The file that is uploaded."""
    return b"".join(_line(custom_id, body) for custom_id, body in requests.select("custom_id", "body").iter_rows())


def _line(custom_id: str, body: str) -> bytes:
    head = f'{{"custom_id": {json.dumps(custom_id)}, "method": "POST", "url": "{PATH}", "body": '
    return f"{head}{body}}}\n".encode()


def book(
    ledger: Ledger, batch: Batch, requests: pl.DataFrame, came: list[tuple[int | None, int | None, str]] | None
) -> None:
    """Write the calls of a batch into the ledger.

    came: (prompt tokens, completion tokens, outcome) of each; None: it is to be submitted, and what it may take at most
    is reserved.
    """
    prompt, completion, outcome = zip(*came, strict=True) if came else (None, None, None)

    def column(name: str, values: Any) -> pl.Series:
        return pl.Series(name, values if values is not None else [None] * requests.height, dtype=CALLS[name])

    of_batch: dict[str, Any] = {
        "begun_at": batch.begun_at, "run": batch.run, "source": batch.source, "judge": batch.judge,
        "model": batch.model, "usd_prompt": batch.usd_prompt, "usd_completion": batch.usd_completion,
        "most_completion_tokens": batch.max_tokens,
    }  # fmt: skip
    frame = requests.select(
        pl.format(f"{CALL_PREFIX}{batch.key}-{{}}", "custom_id").alias("call_id"),
        "most_prompt_tokens",
        *(pl.lit(value, dtype=CALLS[name]).alias(name) for name, value in of_batch.items()),
        column("prompt_tokens", prompt),
        column("completion_tokens", completion),
        column("outcome", outcome),
    ).select(list(CALLS))
    with ledger.appender(month_of(batch.begun_at)) as appender:
        appender.add(frame)
