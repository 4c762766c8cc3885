"""Every row format, its detection, and every reason a row is refused for."""

from typing import Any

import pytest

from dselect_core.corpus.formats import Layout, choose_layout, read_row
from dselect_core.corpus.sample import BadRow, Turn, canonical_messages, sample_id


def parse(row: dict[str, Any], format: str = "auto") -> list[tuple[str, str]]:
    layout = choose_layout([row], format)
    assert layout is not None
    return [(message["role"], message["content"]) for message in read_row(row, layout).messages]


QA = [("user", "2+2?"), ("assistant", "4")]
MESSAGES = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        ({"instruction": "2+2?", "output": "4"}, "alpaca", QA),
        ({"instruction": "2+2?", "input": "", "output": "4"}, "alpaca", QA),
        ({"instruction": "2+2?", "input": " \n", "output": "4", "text": "…"}, "alpaca", QA),
        ({"instruction": "Add\n", "input": "2, 2", "output": "4"}, "alpaca", [("user", "Add\n\n2, 2"), QA[1]]),
        ({"instruction": "", "input": "2+2?", "output": "4"}, "alpaca", QA),
        ({"instruction": "2+2?", "output": "4", "system": "Be brief."}, "alpaca", [("system", "Be brief."), *QA]),
        (
            {"instruction": "2+2?", "output": "4", "history": [["Hi", "Hello"]]},
            "alpaca",
            [("user", "Hi"), ("assistant", "Hello"), *QA],
        ),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, "sharegpt", QA),
        (
            {"conversations": [{"from": "User", "value": "2+2?"}, {"from": "bard", "value": "4"}], "system": "S"},
            "sharegpt",
            [("system", "S"), *QA],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "2+2?"},
                    {"from": "chatgpt", "value": "4"},
                ],
                "system": "S",
            },
            "sharegpt",
            [("system", "S"), *QA],
        ),
        ({"conversations": ["2+2?", "4"], "source": "x"}, "strings", QA),
        ({"conversations": ["2+2?", "4", "3+3?", "6"]}, "strings", [*QA, ("user", "3+3?"), ("assistant", "6")]),
        ({"messages": MESSAGES}, "messages", QA),
        ({"conversation": MESSAGES}, "messages", QA),
        ({"messages": [{"role": "developer", "content": "S"}, *MESSAGES]}, "messages", [("system", "S"), *QA]),
        ({"messages": [{"role": "system", "content": " "}, *MESSAGES]}, "messages", QA),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]},
                    MESSAGES[1],
                ]
            },
            "messages",
            QA,
        ),
        ({"prompt": "2+2?", "messages": MESSAGES, "tools": []}, "messages", QA),
        ({"prompt": "2+2?", "completion": "4"}, "prompt_completion", QA),
        ({"question": "2+2?", "answer": "4"}, "prompt_completion", QA),
        ({"query": "2+2?", "response": "4", "original_question": "…"}, "prompt_completion", QA),
        ({"instruction": "2+2?", "response": "4"}, "prompt_completion", QA),
        (
            {"instruction": "Add", "context": "2, 2", "response": "4"},
            "prompt_completion",
            [("user", "Add\n\n2, 2"), QA[1]],
        ),
        ({"input": "2+2?", "output": "4"}, "prompt_completion", QA),
        ({"problem": "2+2?", "solution": "4"}, "prompt_completion", QA),
        ({"system_prompt": "S", "question": "2+2?", "response": "4"}, "prompt_completion", [("system", "S"), *QA]),
        (
            {"prompt": "2+2?", "response": "4", "history": [["Hi", "Hello"]]},
            "prompt_completion",
            [("user", "Hi"), ("assistant", "Hello"), *QA],
        ),
        (
            {"prompt": [{"role": "system", "content": "S"}, MESSAGES[0]], "completion": [MESSAGES[1]]},
            "prompt_completion",
            [("system", "S"), *QA],
        ),
    ],
)
def test_a_row_is_recognised_and_read(row: dict[str, Any], format: str, expected: list[tuple[str, str]]) -> None:
    layout = choose_layout([row])
    assert layout is not None and layout.format == format
    assert parse(row) == expected
    assert parse(row, format) == expected


@pytest.mark.parametrize("row", [{"text": "2+2=4"}, {"prompt": "2+2?"}, {"output": None, "instruction": "x"}, {}])
def test_a_row_of_no_known_shape_has_no_layout(row: dict[str, Any]) -> None:
    assert choose_layout([row]) is None


def chat(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": ""}, "`completion`: the response is blank"),
        ({"prompt": "q", "completion": " \n\t"}, "`completion`: the response is blank"),
        ({"prompt": " ", "completion": "a"}, "`prompt`: the prompt is blank"),
        ({"prompt": "q", "completion": 42}, "`completion` is a number, not text"),
        ({"prompt": ["q"], "completion": "a"}, "`prompt` is a list, not text"),
        ({"prompt": "q", "completion": [MESSAGES[1]]}, "`completion` is a list, not text"),
        ({"prompt": "q", "completion": "a\ud800"}, "`completion` holds a lone surrogate, which is not valid Unicode"),
        ({"prompt": "q\0", "completion": "a"}, "`prompt` holds a NUL character"),
        ({"prompt": "q", "completion": "a", "context": {"x": 1}}, "`context` is an object, not text"),
        (
            {"prompt": "q", "completion": "a", "history": "x"},
            "`history` is text, not a list of [prompt, response] pairs",
        ),
        (
            {"prompt": "q", "completion": "a", "history": [["x"]]},
            "`history` pair 1 is not a pair of [prompt, response]",
        ),
        ({"prompt": "q", "completion": "a", "image": "x.png"}, "has `image`: only text can be used"),
        ({"instruction": "q", "output": "a", "input": 3}, "`input` is a number, not text"),
        ({"instruction": "q", "output": "a", "system": True}, "`system` is a boolean, not text"),
        ({"instruction": " ", "input": "", "output": "a"}, "`instruction`: the prompt is blank"),
        ({"conversations": ["q"]}, "no response"),
        ({"conversations": ["q", "a", "q2"]}, "ends on the user: no response"),
        ({"conversations": ["q", " "]}, "`conversations` turn 2: the response is blank"),
        ({"conversations": ["q", None]}, "`conversations` turn 2 is missing, not text"),
        (chat(("user", "q")), "no response"),
        (chat(("system", "s"), ("user", "q")), "ends on the user: no response"),
        (chat(("system", "s")), "no response"),
        (
            chat(("assistant", "a")),
            "`messages` turn 1: starts with assistant; user and assistant must alternate, the user first",
        ),
        (
            chat(("user", "q"), ("user", "q"), ("assistant", "a")),
            "`messages` turn 2: user after user; user and assistant must alternate, the user first",
        ),
        (
            chat(("user", "q"), ("assistant", "a"), ("system", "s")),
            "`messages` turn 3: a system prompt may only come first, and only once",
        ),
        (
            {**chat(("system", "other"), ("user", "q"), ("assistant", "a")), "system": "s"},
            "`messages` turn 1: a system prompt may only come first, and only once",
        ),
        (chat(("user", "q"), ("assistant", None)), "`messages` turn 2 is missing, not text"),
        (chat(("user", "q"), (7, "a")), "`messages` turn 2: the role is a number, not text"),
        (
            chat(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "a")),
            "`messages` turn 1 has a part of type 'image_url'; only {type: text, text} can be used",
        ),
        (
            chat(("user", ["q"]), ("assistant", "a")),
            "`messages` turn 1 has a part that is text; only {type: text, text} can be used",
        ),
        ({"messages": [MESSAGES[0], "a"]}, "`messages` turn 2 is text, not an object of {role, content}"),
        (
            {"messages": [MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
            "`messages` turn 2: `tool_calls` is not a call of a tool: {name, arguments}",
        ),
        ({"messages": MESSAGES, "tools": '["add"]'}, "`tools` is text that is not JSON"),
        (
            {"messages": MESSAGES, "tools": [{"type": "x"}]},
            "`tools` is not a list of tool definitions, each with a name",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": 4}]},
            "`conversations` turn 2 is a number, not text",
        ),
    ],
)
def test_a_bad_row_gives_its_reason(row: dict[str, Any], reason: str) -> None:
    layout = choose_layout([row])
    assert layout is not None
    with pytest.raises(BadRow) as refused:
        read_row(row, layout)
    assert str(refused.value) == reason


@pytest.mark.parametrize("role", ["critic", ""])
def test_an_unknown_role_is_refused_and_named(role: str) -> None:
    with pytest.raises(BadRow, match=f"`messages` turn 2: unknown role {role!r}; known: system, developer, user"):
        read_row(chat(("user", "q"), (role, "x"), ("assistant", "a")), Layout("messages", ("messages",)))


@pytest.mark.parametrize("value", ["text", 3, None, ["q", "a"]])
def test_what_is_not_an_object_is_refused(value: Any) -> None:
    with pytest.raises(BadRow, match="not a JSON object but"):
        read_row(value, Layout("alpaca", ("instruction", "output")))


def test_a_row_without_the_keys_of_its_file_is_refused_with_the_keys_it_has() -> None:
    with pytest.raises(BadRow) as refused:
        read_row({"prompt": "q", "completion": None, "id": 1}, Layout("prompt_completion", ("prompt", "completion")))
    assert str(refused.value) == (
        "no `completion`, which prompt_completion (prompt, completion) needs; keys found: prompt, completion, id"
    )


def test_the_layout_is_the_one_that_makes_most_rows_valid() -> None:
    both = [{"prompt": "q", "answer": None, "response": "a"}] * 3 + [{"prompt": "q", "answer": "a", "response": " "}]
    assert choose_layout(both) == Layout("prompt_completion", ("prompt", "response"))
    mixed = [{"messages": MESSAGES}, *[{"instruction": "q", "output": "a"}] * 2]
    assert choose_layout(mixed) == Layout("alpaca", ("instruction", "output"))
    assert choose_layout(mixed, "messages") == Layout("messages", ("messages",))


def test_alpaca_rows_that_lost_their_instruction_do_not_turn_input_into_the_prompt() -> None:
    rows = [{"instruction": None, "input": "2, 2", "output": "4"}] * 3 + [
        {"instruction": "Add", "input": "2", "output": "2"}
    ]
    assert choose_layout(rows) == Layout("alpaca", ("instruction", "output"))


def test_rows_with_keys_but_no_valid_sample_still_name_the_layout() -> None:
    assert choose_layout([{"instruction": "q", "output": " "}]) == Layout("alpaca", ("instruction", "output"))


def test_canonical_text_keeps_indentation_and_drops_blank_edges() -> None:
    messages = canonical_messages(
        [Turn("user", "\n \n  def f():\n    return 1\n\n", "u"), Turn("assistant", "\r\nyes \u2003", "a")]
    )
    assert [m["content"] for m in messages] == ["  def f():\n    return 1", "yes"]
    assert canonical_messages([Turn(m["role"], m["content"], "") for m in messages]) == messages


def test_the_id_is_of_roles_and_texts_and_their_boundaries() -> None:
    def id_of(*turns: tuple[str, str]) -> str:
        return sample_id([{"role": role, "content": content} for role, content in turns])

    assert id_of(("user", "ab"), ("assistant", "c")) != id_of(("user", "a"), ("assistant", "bc"))
    assert id_of(("system", "a"), ("assistant", "c")) != id_of(("user", "a"), ("assistant", "c"))
    assert id_of(*QA) == id_of(*QA) and len(id_of(*QA)) == 32
    # Stored ids must mean the same in every version: this one is fixed.
    assert id_of(*QA) == "6490c6520927829da73116de62e4418c"
