"""What an asset may tell Dagster when it fails: no secret, no control character, one message.

Dagster stores the whole chain of exceptions of a step, shows it in the UI, and logs it to the terminal of a daemon. The
messages of libraries quote addresses with passwords, and those of dselect quote rows and file names. So each asset and
check is wrapped once, here, and raises a clean copy: with the frames of the original, without what caused it.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import dagster as dg

from dselect_core.errors import DselectError, explain_os_error
from dselect_core.escape import visible
from dselect_core.redact import redact
from dselect_core.stop import request_stop

_F = TypeVar("_F", bound=Callable[..., Any])


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
            with _clean_errors():
                yield from function(*args, **kwargs)

        return generate  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _clean_errors():
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@contextmanager
def _clean_errors() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        # A library may take Ctrl-C for itself while it is at work, and raise this where it stands. Dagster would count
        # it as a failure like any other, and go on.
        request_stop()
        raise
    except dg.Failure:
        raise  # a sentence of ours, clean already
    except DselectError as error:
        raise DselectError(clean(str(error))).with_traceback(error.__traceback__) from None
    except OSError as error:
        raise DselectError(clean(explain_os_error(error))).with_traceback(error.__traceback__) from None
    except Exception as error:
        message = clean(f"{type(error).__name__}: {error}")
        raise StepError(message).with_traceback(error.__traceback__) from None
