"""What a call that brought no chat completion was, and what to do about it if all others fail too."""

from typing import Any, NamedTuple

from dselect_core.graders.judge_logprobs import NoLogprobsError
from dselect_core.graders.judge_reply import NotACompletionError, shorten
from dselect_core.settings.grader_spec import GraderSpec

DEFAULT_KEY = "OPENAI_API_KEY"


class CallFailure(NamedTuple):
    """A call that brought no chat completion.

    remedy: what to do if the endpoint does not work. for_all: every call would fail so. may_be_the_row: others may not.
    too_many: it would have been taken at another time. again: it may go well the next time.
    at_once: where no call was answered before, no other is made.
    """

    error: str
    remedy: str
    for_all: bool = False
    may_be_the_row: bool = True
    too_many: bool = False
    again: bool = False
    at_once: bool = False


def failure_of(error: Exception, base_url: str, spec: GraderSpec) -> CallFailure:
    """What a failed call was, and what to do about it if all others fail too."""
    import openai

    said = describe(error)
    key = spec.api_key.env if spec.api_key else DEFAULT_KEY if spec.base_url is None else None
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        where = f"the key in {key}" if key else "grader.api_key (none is given; name its variable as {env: NAME})"
        remedy = f"grader: {base_url} refuses access ({said}). Check {where}, and that it may use {spec.model}."
        # A 403 may be a moderator's about this very text.
        return CallFailure(said, remedy, for_all=True, may_be_the_row=isinstance(error, openai.PermissionDeniedError))
    if isinstance(error, NoLogprobsError):
        remedy = (
            f"grader.scale: `probability` needs log-probabilities, and {base_url} gives none for {spec.model} "
            f"({said}). Take the key out for ratings, or name an endpoint and a model with `top_logprobs`."
        )
        return CallFailure(said, remedy, for_all=True, at_once=True)
    if isinstance(error, openai.NotFoundError):
        remedy = f"{base_url} has no {spec.model} ({said}). Check grader.model and grader.base_url (mostly …/v1)."
        return CallFailure(said, f"grader: {remedy}", for_all=True)
    if isinstance(error, openai.BadRequestError) and error.code in ("unsupported_value", "unsupported_parameter"):
        remedy = f"{base_url} does not accept these settings for {spec.model} ({said}). Change them under grader."
        return CallFailure(said, f"grader: {remedy}", for_all=True)
    if isinstance(error, openai.RateLimitError):
        if error.code == "insufficient_quota":
            remedy = f"grader: {base_url} has no credit left ({said}). Add credit for the key in {key} and run again."
            return CallFailure(said, remedy, for_all=True, may_be_the_row=False)
        remedy = f"grader: {base_url} takes no more calls now ({said}). Run again later, or lower grader.rpm."
        return CallFailure(said, remedy, may_be_the_row=False, too_many=True)
    read_timeout = isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ != "ConnectTimeout"
    if isinstance(error, openai.APIConnectionError) and not read_timeout:
        remedy = f"grader: no connection to {base_url} ({said}). Check grader.base_url, and that its server runs."
        # It may break on this row: then others are answered.
        return CallFailure(said, remedy, for_all=True, again=True)
    return CallFailure(
        said, f"grader: {base_url} answers nothing ({said}). Run again when it does.", again=_again(error)
    )


def _again(error: Exception) -> bool:
    """Whether the next try may go well: by the rules of the official client."""
    import openai

    if isinstance(error, openai.APIStatusError):
        told = error.response.headers.get("x-should-retry")
        by_status = error.status_code in (408, 409) or error.status_code >= 500
        return by_status if told not in ("true", "false") else told == "true"
    # The rest of a body that broke off, or too late.
    return not isinstance(error, NotACompletionError)


def describe(error: Exception) -> str:
    """What went wrong, on one line and without secrets."""
    import openai

    if isinstance(error, NotACompletionError):
        return str(error)
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {shorten(_server_message(error))}"
    # The transport calls every broken connection a timeout of connecting; what it was stands behind that.
    behind = error.__cause__.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else None
    if behind is not None and "Timeout" not in type(behind).__name__:
        return shorten(str(behind) or type(behind).__name__)
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
