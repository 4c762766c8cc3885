"""Secrets by value and by place; what holds none comes back as it is."""

import pytest

from dselect_core import redact as module
from dselect_core.redact import redact, redact_all, remember, remember_options, remember_url


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_remembered", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/a.json: no", "https://***@host/a.json: no"),
        ("s3://AKIA:se/cret@bucket", "s3://AKIA:se/cret@bucket"),  # a slash ends the user part, by the rules of URLs
        ("'https://host/a.json?token=abc&x=1' fails", "'https://host/a.json?***' fails"),
        ("ftp://a%40b:p@h and http://c:d@e/f?g=h", "ftp://***@h and http://***@e/f?***"),
        ("s3://bucket/part-?.json", "s3://bucket/part-?.json"),
        ("mail me@example.com at https://host", "mail me@example.com at https://host"),
        ("data/a?b=c", "data/a?b=c"),
    ],
)
def test_the_user_part_and_the_query_of_a_url_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(redact(text)) == shown


def test_values_of_the_environment_are_hidden_by_the_name_of_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "OPENAI_API_KEY": "sk-one-12345678",
        "MY_JUDGE_KEY": "judge-12345678",
        "AWS_SECRET_ACCESS_KEY": "aws/secret+12345678",
        "HF_TOKEN": "hf_12345678",
        "db_password": "pass-12345678",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    told = redact(f"Incorrect API key provided: {' '.join(secrets.values())}; aws%2Fsecret%2B12345678; qwertyuiop")
    assert told == "Incorrect API key provided: *** *** *** *** ***; ***; qwertyuiop"


def test_options_are_remembered_but_for_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_options(
        {
            "key": "AKIAEXAMPLE",
            "secret": "very-secret",
            "client_kwargs": {"endpoint_url": "http://127.0.0.1:9000", "region_name": "eu-central-1", "pin": "4711"},
            "anon": False,
            "x": "ab",
        }
    )
    told = redact("AKIAEXAMPLE very-secret http://127.0.0.1:9000 eu-central-1 4711 ab")
    assert told == "*** *** http://127.0.0.1:9000 eu-central-1 *** ab"


def test_parts_of_a_url_are_found_outside_of_it_too() -> None:
    remember_url("https://ann:p%40ssword@host/x?token=t0ken-value&page=2")
    assert (
        redact("401 for ann with p@ssword, p%40ssword and t0ken-value, page 2")
        == "401 for ann with ***, *** and ***, page 2"
    )


def test_a_secret_that_holds_another_is_hidden_whole() -> None:
    remember("abcd")
    remember("abcdefgh")
    assert redact("abcdefgh abcd") == "*** ***"
    assert redact_all({"abcd": ["abcdefgh", 1, None]}) == {"***": ["***", 1, None]}
