"""What the body of a request says besides model and chat, in the dialect that the endpoint has shown to take.

Endpoints differ in how they name the limit of tokens, and in whether they take a temperature, a format of the reply,
and how many log-probabilities. A JSON schema is tried first, then JSON of any form, then text. Nobody can ask them, so
a request that is refused with 400 or 422 is asked again in the next dialect, and one that was answered is remembered.
What the refusal names is changed first; where it names nothing, the format of the reply goes, until a call was answered
in this dialect: from then on it is the row that is refused.

Trade-off: a refusal costs one call, which no endpoint bills.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dselect_core.settings.grader_spec import GraderSpec

_FEWER_LOGPROBS = {20: 5}  # what OpenAI and vLLM take at most; what some others do
_LOOSER_FORMAT = {"json_schema": "json_object", "json_object": None}
_FORMAT_WORDS = ("response_format", "json", "schema", "grammar", "guided", "structured")


@dataclass(frozen=True)
class Dialect:
    """tokens_key: how the limit is named. reply_format: `response_format`; None: none is asked for.

    top_logprobs: how many are asked for of each token; None: none.
    """

    tokens_key: str = "max_tokens"
    temperature: bool = True
    reply_format: str | None = "json_schema"
    top_logprobs: int | None = None

    @classmethod
    def first(cls, *, logprobs: bool) -> "Dialect":
        """What is tried first. logprobs: whether they are needed, of a reply that is no JSON."""
        return cls(reply_format=None, top_logprobs=max(_FEWER_LOGPROBS)) if logprobs else cls()

    def options(self, spec: GraderSpec, schema: dict[str, Any] | None) -> dict[str, Any]:
        """The parameters of the request besides model and chat. schema: of the reply, where it is JSON."""
        options: dict[str, Any] = {self.tokens_key: spec.max_tokens}
        if self.temperature and spec.temperature is not None:
            options["temperature"] = spec.temperature
        if self.reply_format is not None:
            options["response_format"] = {"type": self.reply_format}
        if self.reply_format == "json_schema":
            options["response_format"]["json_schema"] = {"name": "judgement", "strict": True, "schema": schema}
        if self.top_logprobs is not None:
            options |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return options | spec.extra

    def after(self, error: Any, *, proven: bool) -> "Dialect | None":
        """The dialect to try after a refusal (openai.APIStatusError); None where the refusal is not about it.

        proven: whether a call was answered in this one.
        """
        parameter, said = _named(error)
        if self.tokens_key == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, tokens_key="max_completion_tokens")
        if self.temperature and _is_about("temperature", parameter, said):
            return replace(self, temperature=False)
        if self.refuses_logprobs(error):
            fewer = _FEWER_LOGPROBS.get(self.top_logprobs or 0)
            return None if fewer is None else replace(self, top_logprobs=fewer)
        if self.reply_format is not None and (not proven or any(word in said for word in _FORMAT_WORDS)):
            return replace(self, reply_format=_LOOSER_FORMAT[self.reply_format])
        return None

    def refuses_logprobs(self, error: Any) -> bool:
        """Whether log-probabilities were asked for, and the refusal is about them."""
        return self.top_logprobs is not None and _is_about("logprobs", *_named(error))


def _named(error: Any) -> tuple[str, str]:
    """The parameter that a refusal names, empty where it names none; and all that it says, in lower case."""
    body = error.body
    parameter = body.get("param") if isinstance(body, Mapping) else None
    return parameter.lower() if isinstance(parameter, str) else "", str(error).lower()


def _is_about(word: str, parameter: str, said: str) -> bool:
    # What is said may quote the row; where the parameter is named, that counts.
    return word in (parameter or said)
