"""What came of each request of a batch, by its custom id: the lines of the output and error files → judgements.

A reply is read by the rule of live grading (judge_reply.py), and a refusal is what it would be there (call_failure.py).
Lines come in any order. A line that is cut, no JSON, or of no request of the batch is passed over with a warning; the
request that it may have been of is missing, and is asked again like one that was never answered.
"""

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from dselect_core.graders.call_failure import CallFailure, failure_of
from dselect_core.graders.judge_form import JudgeForm
from dselect_core.graders.judge_reply import Judgement, NotACompletionError, read_completion, shorten
from dselect_core.graders.judge_session import MOST_BYTES
from dselect_core.graders.meter import usage_of
from dselect_core.graders.spend import ANSWERED, REFUSED, UNKNOWN
from dselect_core.settings.grader_spec import GraderSpec

_NOT_RUN = ("batch_expired", "batch_cancelled")

_log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What came of a request. outcome: None: the batch ended before it was its turn.

    body: of the reply, where there is one. tokens: (prompt, completion) as billed. billed: a word of the ledger.
    """

    outcome: Judgement | CallFailure | None
    body: bytes = b""
    tokens: tuple[int | None, int | None] = (None, None)
    billed: str = UNKNOWN


MISSING = Result(
    CallFailure("the batch's files say nothing of this row", "grader: the batch's files lack rows.", again=True)
)


def read_lines(files: Collection[bytes], wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """{custom id: line} of the files. wanted: the ids that the batch has."""
    known, lines, odd = frozenset(wanted), dict[str, dict[str, Any]](), list[str]()
    for data in files:
        for raw in data.splitlines():
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
                custom_id = line["custom_id"]
                is_known = custom_id in known
            except (ValueError, KeyError, TypeError, RecursionError):
                is_known = False
            if not is_known:
                odd.append(shorten(raw[:400].decode("utf-8", "replace")))
            elif custom_id in lines:
                odd.append(f"a second line of {custom_id}")
            else:
                lines[custom_id] = line
    if odd:
        _log.warning("grader: %d lines of a batch's files are passed over, the first: %s", len(odd), odd[0])
    return lines


def result_of(line: Mapping[str, Any], spec: GraderSpec, form: JudgeForm, address: str) -> Result:
    """What one line says."""
    response = line.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(status, int):
        return _not_answered(line.get("error"), address)
    body = json.dumps(response.get("body")).encode()
    tokens = usage_of(body)
    if status >= 400:
        failure = failure_of(_refusal(status, response.get("body")), address, spec)
        return Result(failure, body, tokens, REFUSED if tokens == (None, None) else ANSWERED)
    billed = UNKNOWN if tokens == (None, None) else ANSWERED
    try:
        if len(body) > MOST_BYTES:
            raise NotACompletionError(f"the reply is not a chat completion: it is larger than {MOST_BYTES:,} bytes")
        return Result(read_completion(body, spec.max_tokens, form.read), body, tokens, billed)
    except NotACompletionError as error:
        return Result(failure_of(error, address, spec), body, tokens, billed)


def _not_answered(error: Any, address: str) -> Result:
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if code in _NOT_RUN:
        return Result(None, billed=REFUSED)
    said = shorten(": ".join(str(part) for part in (code, message) if part) or "no response and no error")
    return Result(CallFailure(said, f"grader: {address} answers nothing ({said}). Run again when it does.", again=True))


def _refusal(status: int, body: Any) -> Exception:
    """The error that the client library makes of such a reply."""
    import httpx2
    import openai

    made: type[openai.APIStatusError]
    made = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
    }.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)
    said = body.get("error", body) if isinstance(body, dict) else body
    message = said.get("message") if isinstance(said, dict) else said
    response = httpx2.Response(status, request=httpx2.Request("POST", "https://batch.invalid"))
    return made(str(message), response=response, body=said)
