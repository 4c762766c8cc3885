"""The Batch API of an endpoint: files that go up, batches that are made of them, files that come down.

What the client library tries again is harmless to try again. Making a batch is not: it is tried once, and whoever does
not know whether it was made looks for it by its metadata, or by its file.

Trade-off: an endpoint whose list of batches is behind what was made could be given a batch twice; none is known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from dselect_core.errors import DselectError
from dselect_core.graders.batch.shelf import Batch
from dselect_core.graders.call_failure import failure_of
from dselect_core.graders.judge_reply import shorten
from dselect_core.graders.openai_grader import api_key
from dselect_core.settings.grader_spec import GraderSpec

ENDED = ("completed", "failed", "expired", "cancelled")
"""The states in which nothing more comes."""
PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_METADATA = "dselect_batch"


class State(NamedTuple):
    """A batch as the endpoint tells of it. status: its word. answered: of its requests, None where it does not say.

    errors: why it failed.
    """

    batch_id: str
    status: str
    answered: int | None
    output_file_id: str | None
    error_file_id: str | None
    errors: list[str]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ENDED


class RefusedError(DselectError):
    """The endpoint refused a file or a batch, so nothing was made and nothing is billed."""


class MaybeMadeError(DselectError):
    """Whether a batch was made is not known."""


class BatchEndpoint:
    """The endpoint that a grader's settings name. Every method raises DselectError with what to do about it."""

    def __init__(self, spec: GraderSpec) -> None:
        """Raises DselectError for a missing key."""
        from openai import OpenAI

        self._spec = spec
        self._client = OpenAI(
            api_key=api_key(spec), base_url=spec.base_url, timeout=spec.timeout_seconds, max_retries=spec.max_retries
        )

    def __enter__(self) -> "BatchEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def address(self) -> str:
        """Its base address, without user and password."""
        return str(self._client.base_url.copy_with(userinfo=b""))

    def upload(self, batch: Batch, data: bytes) -> str:
        """Upload the requests; the id of the file. Raises RefusedError where it is not taken."""
        with self._errors():
            file = self._client.files.create(file=(f"dselect-{batch.key}.jsonl", data), purpose="batch")
        return self._id(file)

    def create(self, batch: Batch) -> State:
        """Make the batch of its file. Raises RefusedError where it was not made, MaybeMadeError where it may be."""
        assert batch.file_id is not None
        with self._errors(MaybeMadeError):
            made = self._client.with_options(max_retries=0).batches.create(
                input_file_id=batch.file_id,
                endpoint=PATH,
                completion_window="24h",
                metadata={_METADATA: batch.key, "rows": str(batch.rows)},
            )
        return self._state(made, MaybeMadeError)

    def find(self, batch: Batch) -> State | None:
        """The batch that was made of this one, though nobody noted it; None where none was."""
        with self._errors():
            for listed in self._client.batches.list(limit=100):
                metadata = getattr(listed, "metadata", None)
                key = metadata.get(_METADATA) if isinstance(metadata, dict) else None
                if key == batch.key or getattr(listed, "input_file_id", None) == batch.file_id:
                    return self._state(listed)
        return None

    def state(self, batch: Batch) -> State:
        """How far a batch is."""
        assert batch.batch_id is not None
        with self._errors():
            return self._state(self._client.batches.retrieve(batch.batch_id))

    def content(self, file_id: str) -> bytes:
        """A whole file."""
        with self._errors():
            data: bytes = self._client.files.content(file_id).read()
        return data

    def _state(self, batch: Any, error: type[DselectError] = DselectError) -> State:
        batch_id, status = self._id(batch, error), getattr(batch, "status", None)
        if not isinstance(status, str):
            raise error(f"grader: {self.address} tells no state of batch {batch_id}; is its Batch API OpenAI's?")
        answered = getattr(getattr(batch, "request_counts", None), "completed", None)
        files = [getattr(batch, name, None) for name in ("output_file_id", "error_file_id")]
        output, errors = (each if isinstance(each, str) and each else None for each in files)
        listed = getattr(getattr(batch, "errors", None), "data", None) or []
        why = [
            shorten(": ".join(str(part) for part in (each.code, each.message) if part))
            + (f" (line {each.line})" if each.line else "")
            for each in listed[:3]
        ]
        return State(batch_id, status, answered if isinstance(answered, int) else None, output, errors, why)

    def _id(self, made: Any, error: type[DselectError] = DselectError) -> str:
        found = getattr(made, "id", None)
        if not isinstance(found, str) or not found:
            raise error(f"grader: {self.address} answers with no id; is its Batch API (/files, /batches) OpenAI's?")
        return found

    @contextmanager
    def _errors(self, unknown: type[DselectError] = DselectError) -> Iterator[None]:
        """unknown: what is raised where the call may have done what it was for."""
        import openai

        try:
            yield
        except DselectError:
            raise
        except openai.NotFoundError as error:
            raise RefusedError(
                f"grader: {self.address} does not know that file or batch, or has no Batch API "
                f"({failure_of(error, self.address, self._spec).error}). Check grader.base_url, the key and its "
                "project, or set `grader.mode: live`."
            ) from None
        except openai.APIStatusError as error:
            refused = error.status_code < 500 and error.status_code not in (408, 409, 429)
            raise (RefusedError if refused else unknown)(self._remedy(error)) from None
        except Exception as error:  # of the transport, or of a body that is none
            raise unknown(self._remedy(error)) from None

    def _remedy(self, error: Exception) -> str:
        return failure_of(error, self.address, self._spec).remedy
