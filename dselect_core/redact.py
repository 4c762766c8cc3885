"""Secrets are replaced by `***` in every text that is stored or shown: `redact(text)`.

A secret is known by its value or by its place. By value: what `remember` was given (the settings remember their storage
options), and what the environment holds under a name like API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY. By place: the
user part of a URL, and the values of its query. So a key that an endpoint echoes is found wherever it stands.

Trade-off: a secret of fewer than four characters is not looked for by value, because it would hide half of every text.
"""

import base64
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "***"
SHORTEST = 4
"""Characters that a remembered value must have; a value of the environment needs twice as many."""

# Names of storage options that hold no secret; all other texts among the options are taken for one.
_PLAIN_OPTIONS = frozenset(
    (
        *("account_name", "addressing_style", "anon", "bucket", "client_kwargs", "config_kwargs", "endpoint"),
        *("endpoint_url", "host", "location", "port", "profile", "project", "protocol", "region", "region_name"),
        *("scheme", "signature_version", "skip_instance_cache", "use_ssl", "user_project", "verify"),
    )
)
_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|ACCESS_KEY|KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)$")
_USER_PART = re.compile(r"(?<=://)[^/?#\s'\"<>]+(?=@)")
_QUERY = re.compile(r"(?<=://)([^\s'\"<>?]*)\?([^\s'\"<>]*=[^\s'\"<>]*)")
_remembered: set[str] = set()


def remember(value: str) -> None:
    """From now on this value is a secret, in this process."""
    if len(value) >= SHORTEST:
        _remembered.add(value)


def remember_options(options: Mapping[str, Any]) -> None:
    """Remember the texts among the options of a file system, nested ones too; not addresses, regions and the like."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            remember_options(value)
        elif isinstance(value, str) and name not in _PLAIN_OPTIONS:
            remember(value)


def remember_url(url: str) -> None:
    """Remember the password and the values of the query of a URL, so that they are found outside of it too."""
    if user_part := _USER_PART.search(url):
        user, _, password = user_part[0].partition(":")
        remember(password or user)  # a token may stand alone
        remember(unquote(password))
        # As it is sent, and as a server may quote it.
        remember(base64.b64encode(unquote(user_part[0]).encode()).decode())
    if query := _QUERY.search(url):
        for pair in re.split("[&;]", query[2]):
            value = pair.partition("=")[2]
            remember(unquote(value))
            remember(value)


def redact(text: str) -> str:
    """The text with `***` in place of every secret that is known. A text without one comes back as it is."""
    # The longest first: a secret may hold another one.
    for secret in sorted(_remembered | _of_environment(), key=len, reverse=True):
        for form in {secret, quote(secret, safe="")}:
            text = text.replace(form, HIDDEN)
    text = _USER_PART.sub(HIDDEN, text)
    return _QUERY.sub(rf"\1?{HIDDEN}", text)


def redact_all(value: Any) -> Any:
    """The same JSON value, each text in it redacted; keys too."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact_all(key): redact_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return value


def _of_environment() -> set[str]:
    # Only what names a secret is read: reading all of an environment for each of thousands of texts takes a while.
    return {
        value
        for name in os.environ
        if _names_a_secret(name) and len(value := os.environ.get(name, "").strip()) >= 2 * SHORTEST
    }


@lru_cache(4096)  # the names are the same at each of thousands of texts
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name.upper()) is not None
