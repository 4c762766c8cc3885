"""What others wrote acts neither on a terminal nor in markdown, and can still be read."""

import re

import pytest

from dselect_core.escape import markdown_code, markdown_table, one_line, visible

ACTING = {
    "clear the screen": "\x1b[2J",
    "set the clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "make a link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "8-bit escape": "\x9b2J",
    "write over the line": "safe\rEVIL",
    "backspace": "ab\x08\x08",
    "reorder": "\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "hide": "a\u200bb\ufeffc\u00ad",
    "invisible tags": "\U000e0041\U000e0042",
    "half a pair": "\ud83d",
    "line separator": "a\u2028b",
    "null": "a\x00b",
}


@pytest.mark.parametrize("text", ACTING.values(), ids=ACTING)
def test_a_character_that_acts_is_shown_as_its_escape(text: str) -> None:
    told = visible(text)
    assert told.isprintable()
    told.encode()
    assert visible(told) == told
    for character in text:
        assert character.isprintable() or ascii(character)[1:-1] in told


def test_what_people_write_stays() -> None:
    text = "Grüße, 你好, שלום, नमस्ते\u200d, 👩\u200d👩\u200d👧!\n\tx = [1, 2]  # `a` <b>\\n"
    assert visible(text) == text
    assert one_line("a\n\tb") == r"a\n\tb"


@pytest.mark.parametrize(
    "text",
    ["![](http://evil.example/x.png)", "[a](http://evil.example)", "<img src=x onerror=alert(1)>", "# big", "a | b",
     "`code`", "``", "x\n\n| a |\n| - |", "https://evil.example", "*a* _b_ ~~c~~", " lead", "", " ", "a\\", "\\|"],
)  # fmt: skip
def test_markdown_code_is_one_span_whatever_it_holds(text: str) -> None:
    span = markdown_code(text)
    assert "\n" not in span
    fence = re.match("`+", span)
    assert fence is not None
    inside = span[len(fence[0]) : -len(fence[0])]
    assert span.endswith(fence[0])
    # The fence stands nowhere inside as a run of its own, so the span ends where it should.
    assert fence[0] not in re.findall("`+", inside)
    assert not inside.startswith("`")
    assert not inside.endswith("`")
    assert not re.search(r"(?<!\\)\|", inside)


def test_a_table_shows_numbers_and_words_as_they_are_and_all_else_as_code() -> None:
    rows = [[1, "x|y"], [0.123456789, None], [True, "![](http://e)"], ["topk:loss", "evil.com"], ["a_b-c 9%", "_a_"]]
    table = markdown_table(["a", "b"], rows)
    assert table.splitlines() == [
        "| a | b |", "| --- | --- |", r"| 1 | `x\|y` |", "| 0.123457 |  |", "| True | `![](http://e)` |",
        "| topk:loss | `evil.com` |", "| a_b-c 9% | `_a_` |",
    ]  # fmt: skip
