"""What an asset may tell Dagster when it fails: no secret, no control character, one message.

Dagster stores the whole chain of exceptions of a step, shows it in the UI, and logs it to the terminal of a daemon. The
messages of libraries quote addresses with passwords, and those of dselect quote rows and file names. So each asset and
check is wrapped once, here, and raises a clean copy: with the frames of the original, without what caused it.

In a step the copy is a `dg.Failure`: its sentence stands first in the UI, above the stack and not below it, and it says
whether a retry may help (run_policy.py).
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dagster as dg

from dselect_core.errors import DselectError, known_error
from dselect_core.escape import visible
from dselect_core.redact import redact
from dselect_core.stop import request_stop
from dselect_dagster.defs.run_policy import RETRIES
from dselect_dagster.defs.run_tags import COMMAND

_F = TypeVar("_F", bound=Callable[..., Any])


_Step = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


class StepError(Exception):
    """An error that dselect did not foresee, with its class and message as text."""


def clean(text: str) -> str:
    """The text as it may be stored in a log: without secrets, and without characters that act on a terminal."""
    return visible(redact(text))


def with_clean_errors(function: _F) -> _F:
    """The function of an asset or check, whose errors are clean. Put it under the decorator of Dagster."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _clean_errors(_step_of(args, kwargs)):
                yield from function(*args, **kwargs)

        return generate  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _clean_errors(_step_of(args, kwargs)):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _step_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Step | None:
    """The context of a step; None in a sensor or schedule, or in a function that takes no context."""
    contexts = [each for each in (*args, *kwargs.values()) if isinstance(each, _Step)]
    return contexts[0] if contexts else None


@contextmanager
def _clean_errors(step: _Step | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        # A library may take Ctrl-C for itself while it is at work, and raise this where it stands. Dagster would count
        # it as a failure like any other, and go on.
        request_stop()
        raise
    except dg.Failure:
        raise  # a sentence of ours, clean already
    except Exception as error:
        raise _told(error, step).with_traceback(error.__traceback__) from None


def _told(error: Exception, step: _Step | None) -> Exception:
    known = error if isinstance(error, DselectError) else known_error(error)
    sentence = clean(f"{type(error).__name__}: {error}" if known is None else str(known))
    if step is not None:
        # A person who watches sees the sentence, and tries again when it is mended. Of the last try Dagster would say
        # first how many there were.
        again = known is not None and known.again and COMMAND not in step.run.tags
        is_last = step.op_execution_context.retry_number >= RETRIES.max_retries
        return dg.Failure(sentence, allow_retries=again and not is_last)
    return DselectError(sentence) if known is not None else StepError(sentence)
