"""Rows as people publish them: tools, reasoning, media columns, several prompts or responses, and odd nestings."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.corpus.formats import ALL_KEYS, LAYOUTS, choose_layout, read_row
from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.sample import BadRow, Turn, canonical_messages, chat_messages, chat_tools, sample_id
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec

Chat = list[dict[str, Any]]


def land(tmp_path: Path, *rows: Any) -> tuple[list[Chat], list[str]]:
    """The conversations and the reasons in quarantine of a JSONL file of these rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = ingest("s", SourceSpec(path=str(path)))
    assert got.balances
    return [chat_messages(messages) for messages in got.samples["messages"].to_list()], got.quarantine[
        "reason"
    ].to_list()


def texts(chats: list[Chat]) -> set[tuple[str, ...]]:
    return {tuple(message["content"] for message in chat) for chat in chats}


# --- prompts and responses in several columns ------------------------------------------------------------------------

NAN = float("nan")
REVIEW = "Positive or negative?"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [
                {"prompt": REVIEW, "input": "I loved it.", "output": "positive"},
                {"prompt": REVIEW, "input": "A fine evening.", "output": "positive"},
            ],
            {(f"{REVIEW}\n\nI loved it.", "positive"), (f"{REVIEW}\n\nA fine evening.", "positive")},
        ),
        (
            [
                {"instruction": "One word.", "question": "Capital of Peru?", "answer": "Lima"},
                {"instruction": "One word.", "question": "Largest city of Peru?", "answer": "Lima"},
            ],
            {("One word.\n\nCapital of Peru?", "Lima"), ("One word.\n\nLargest city of Peru?", "Lima")},
        ),
        (  # also where the layout is Alpaca's
            [{"instruction": "One word.", "query": "Capital of Peru?", "output": "Lima"}],
            {("One word.\n\nCapital of Peru?", "Lima")},
        ),
        (  # a column that the chosen one quotes, one that is equal, one that renders the row, and a number
            [{"prompt": "Q: What is the capital?\nA:", "question": "What is the capital?", "answer": "Lima"}],
            {("Q: What is the capital?\nA:", "Lima")},
        ),
        ([{"question": "Capital?", "problem": "Capital?", "query": 7, "answer": "Lima"}], {("Capital?", "Lima")}),
        (
            [{"instruction": "Add.", "input": "2, 2", "output": "4", "prompt": "### Instruction:\nAdd.\n2, 2\n4"}],
            {("Add.\n\n2, 2", "4")},
        ),
        (
            [{"problem": "6 rows of 7?", "solution": "6 times 7 is 42.", "answer": "42"}],
            {("6 rows of 7?", "6 times 7 is 42.")},
        ),
        (  # a bare value that is written otherwise in the solution
            [{"problem": "Half?", "solution": "It is 1/2.", "answer": "0.5"}],
            {("Half?", "It is 1/2.")},
        ),
        (  # the longer one, whatever its name
            [{"prompt": "6 rows of 7?", "response": "42", "answer": "6 times 7 is 42."}],
            {("6 rows of 7?", "6 times 7 is 42.")},
        ),
        ([{"instruction": "Hi?", "input": NAN, "output": "Hi."}], {("Hi?", "Hi.")}),
        (
            [{"prompt": "Hi?", "completion": "Hi.", "context": NAN, "system": NAN, "history": NAN, "image": NAN}],
            {("Hi?", "Hi.")},
        ),
        ([{"messages": NAN, "prompt": "Hi?", "completion": "Hi."}], {("Hi?", "Hi.")}),
    ],
)
def test_every_column_of_the_prompt_is_read_and_the_fullest_response(
    tmp_path: Path, rows: list[Any], expected: set[tuple[str, ...]]
) -> None:
    chats, reasons = land(tmp_path, *rows)
    assert texts(chats) == expected and not reasons


def test_two_long_texts_that_could_both_be_the_response_are_not_chosen_between(tmp_path: Path) -> None:
    _, reasons = land(tmp_path, {"prompt": "p", "response": "One story.", "output": "Another tale."})
    assert reasons == ["`response` and `output` could both be the response: rename or remove one of them"]


def test_a_row_that_says_its_answer_is_bad_is_no_sample(tmp_path: Path) -> None:
    chats, reasons = land(
        tmp_path,
        {"prompt": "A prime?", "completion": "Seven.", "label": True},
        {"prompt": "A prime?", "completion": "Nine.", "label": False},
        {"prompt": "A prime?", "completion": "Five.", "label": 0},
        {"prompt": "A prime?", "completion": "Ten.", "kto_tag": False},
    )
    assert texts(chats) == {("A prime?", "Seven."), ("A prime?", "Five.")}
    assert reasons == ["marked undesirable: `label` is false", "marked undesirable: `kto_tag` is false"]


# --- media -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["video", "audio", "image_path", "images", "photo", "audio_urls"])
def test_a_row_about_a_picture_film_or_sound_is_no_text(tmp_path: Path, key: str) -> None:
    _, reasons = land(tmp_path, {key: "clips/1", "prompt": "What?", "completion": "A tree."})
    assert reasons == [f"has `{key}`: only text can be used"]
    turns = [{"role": "user", "content": "What?", key: ["clips/1"]}, {"role": "assistant", "content": "A tree."}]
    _, reasons = land(tmp_path, {"messages": turns})
    assert reasons == [f"`messages` turn 1 has `{key}`: only text can be used"]


@pytest.mark.parametrize("empty", [{"bytes": None, "path": None}, [None], [], "", "[]", [{"path": ""}], NAN])
def test_an_empty_media_column_says_nothing(tmp_path: Path, empty: Any) -> None:
    chats, reasons = land(tmp_path, {"image": empty, "instruction": "Hi?", "output": "Hi."})
    assert texts(chats) == {("Hi?", "Hi.")} and not reasons


def test_an_empty_media_struct_of_a_table_says_nothing(tmp_path: Path) -> None:
    image = pa.array([{"bytes": None, "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "instruction": ["Hi?"], "output": ["Hi."]}), tmp_path / "rows.parquet")
    assert ingest("s", SourceSpec(path=str(tmp_path / "rows.parquet"))).samples.height == 1


# --- nestings --------------------------------------------------------------------------------------------------------

TURNS = [{"from": "human", "value": "Hi there"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": {"from": ["human", "gpt"], "value": ["Hi there", "Hello"]}},
        {"messages": {"role": ["user", "assistant"], "content": ["Hi there", "Hello"], "name": None}},
        {"conversations": json.dumps(TURNS)},
        {
            "prompt": {"role": ["user"], "content": ["Hi there"]},
            "completion": {"role": ["assistant"], "content": ["Hello"]},
        },
    ],
)
def test_turns_in_another_nesting_are_the_same_turns(tmp_path: Path, row: dict[str, Any]) -> None:
    chats, reasons = land(tmp_path, row)
    assert texts(chats) == {("Hi there", "Hello")} and not reasons


@pytest.mark.parametrize(
    ("value", "what"), [({"from": ["human"], "value": []}, "an object"), ({"a": 1}, "an object"), ("Hi", "text")]
)
def test_a_known_key_in_an_unknown_nesting_is_not_called_unknown(tmp_path: Path, value: Any, what: str) -> None:
    with pytest.raises(DselectError, match=f"`conversations` is {what}, not a list of turns"):
        land(tmp_path, {"conversations": value})


# --- tools and reasoning ---------------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "é"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "4"}
ARGUMENTS = json.dumps(CALL["function"]["arguments"])  # type: ignore[index]
NAMED = {"name": "add", "arguments": ARGUMENTS}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [ASKED, CALLED, RESULT, ANSWERED]}, [ASKED, CALLED, RESULT, ANSWERED]),
        ({"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, [ASKED, CALLED]),
        ({"messages": [ASKED, {"role": "assistant", "function_call": NAMED}]}, [ASKED, CALLED]),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": json.dumps([CALL])}]}, [ASKED, CALLED]),
        (
            {"messages": [ASKED, CALLED, {"role": "function", "name": "add", "content": "4"}, ANSWERED]},
            [ASKED, CALLED, {**RESULT, "name": "add"}, ANSWERED],
        ),
        (
            {
                "messages": [
                    ASKED,
                    {"role": "assistant", "tool_calls": [{"id": "c1", **CALL}, {"id": "c2", **CALL}]},
                    {**RESULT, "tool_call_id": "c1"},
                    {"role": "tool", "content": None, "tool_call_id": "c2"},
                    ANSWERED,
                ]
            },
            [
                ASKED,
                {**CALLED, "tool_calls": [{"id": "c1", **CALL}, {"id": "c2", **CALL}]},
                {**RESULT, "tool_call_id": "c1"},
                {"role": "tool", "content": "", "tool_call_id": "c2"},
                ANSWERED,
            ],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "2+2?"},
                    {"from": "gpt", "value": "I add."},
                    {"from": "function_call", "value": json.dumps(NAMED)},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "4"},
                ]
            },
            [ASKED, {**CALLED, "content": "I add."}, RESULT, ANSWERED],
        ),
        (  # a call in the text stays text
            {
                "conversations": [
                    {"from": "user", "value": "2+2?"},
                    {"from": "assistant", "value": "[add(2, 2)]"},
                    {"from": "tool", "value": "4"},
                    {"from": "assistant", "value": "4"},
                ]
            },
            [ASKED, {"role": "assistant", "content": "[add(2, 2)]"}, RESULT, ANSWERED],
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "reasoning_content": "Two and two."}]},
            [ASKED, {**ANSWERED, "reasoning_content": "Two and two."}],
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "thinking": "Two and two.", "reasoning": ""}]},
            [ASKED, {**ANSWERED, "reasoning_content": "Two and two."}],
        ),
        (  # said twice: the content stands as it is
            {"messages": [ASKED, {"role": "assistant", "content": "<think>2, 2</think>4", "reasoning": "2, 2"}]},
            [ASKED, {"role": "assistant", "content": "<think>2, 2</think>4"}],
        ),
        (
            {"question": "2+2?", "reasoning": "Two and two.", "answer": "4"},
            [ASKED, {**ANSWERED, "reasoning_content": "Two and two."}],
        ),
    ],
)
def test_calls_answers_and_reasoning_are_read_as_what_they_are(
    tmp_path: Path, row: dict[str, Any], expected: Chat
) -> None:
    assert land(tmp_path, row) == ([expected], [])


@pytest.mark.parametrize(
    "tools",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"functions": json.dumps([TOOL["function"]])},
        {"tools": [], "functions": [{**TOOL["function"], "description": None}]},  # type: ignore[dict-item]
    ],
)
def test_tool_definitions_are_read_and_are_part_of_the_sample(tmp_path: Path, tools: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": [ASKED, CALLED], **tools}, {"messages": [ASKED, CALLED]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = ingest("s", SourceSpec(path=str(path))).samples
    assert samples.height == 2
    (text,) = samples["tools"].drop_nulls()
    assert chat_tools(text) == [TOOL]
    for id, messages, of_sample in samples.select("sample_id", "messages", "tools").iter_rows():
        assert sample_id(messages, of_sample) == id


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASKED, CALLED, RESULT], "ends on the tool: no response"),
        ([ASKED, RESULT, ANSWERED], "turn 2: a tool's answer must follow the assistant's call, not the user"),
        ([ASKED, CALLED, ASKED, ANSWERED], "turn 3: user after a call of a tool, which nothing has answered"),
        ([ASKED, CALLED, RESULT, ASKED, ANSWERED], "turn 4: user after the tool's answer, which nothing has answered"),
        ([{**ASKED, "tool_calls": [CALL]}, ANSWERED], "turn 1: calls a tool, but it is a turn of the user"),
        ([{**ASKED, "reasoning": "r"}, ANSWERED], "turn 1: reasoning, but it is a turn of the user"),
        ([ASKED, {**ANSWERED, "reasoning": "a", "thinking": "b"}], "turn 2: `reasoning` and `thinking` differ"),
        ([ASKED, {**ANSWERED, "reasoning": ["a"]}], "turn 2: the reasoning is a list, not text"),
        ([ASKED, {"role": "function_call", "content": "add(2)"}], "turn 2 is text that is not JSON"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "x", "arguments": "[1]"}]}], "are a list, not an obj"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "x\ud800"}]}], "holds a lone surrogate"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "x", "arguments": '{"a": NaN}'}]}], "that JSON has not"),
        ([ASKED, {"role": "assistant", "tool_calls": [{"name": "x", "arguments": {"a": "\0"}}]}], "NUL character"),
    ],
)
def test_calls_that_are_none_are_refused_with_the_reason(tmp_path: Path, turns: Chat, reason: str) -> None:
    _, (found,) = land(tmp_path, {"messages": turns})
    assert reason in found


# --- one odd row stops no other --------------------------------------------------------------------------------------

DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]
ODD_VALUES = [DEEP, {"a": DEEP}, 10**5000, "\ud800", {"\ud800": 1}, {"k" * 1_000_000: 1}, NAN, float("inf"), b"\xff"]


@pytest.mark.parametrize("key", [*sorted(ALL_KEYS), "role", "content", "tool_calls", "name"])
def test_an_odd_value_anywhere_gives_a_sample_or_a_reason(key: str) -> None:
    for odd in ODD_VALUES:
        _read_with_odd_value(key, odd)


def _read_with_odd_value(key: str, odd: Any) -> None:
    pair = {"instruction": "q", "output": "a", key: odd}
    chat = {"messages": [ASKED, {**CALLED, key: odd}, {**RESULT, key: odd}, ANSWERED]}
    for row in (pair, {**chat, key: odd}, chat, {"\ud800" * 1000: 1, "k" * 1_000_000: odd}):
        choose_layout([row])
        for layout in LAYOUTS:
            try:
                assert read_row(row, layout).messages
            except BadRow as reason:
                assert 0 < len(str(reason)) < 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(ARGUMENTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "arguments", "function", "id", "a"]), inner, max_size=3)
    ),
)
turns_of_any_kind = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "function_call"]), "content": st.just("x") | json_values},
    optional={key: st.just([CALL]) | json_values for key in ("tool_calls", "function_call", "reasoning", "name")},
)


@settings(max_examples=300, deadline=None)
@given(turns=st.lists(turns_of_any_kind, max_size=4), tools=st.just([TOOL]) | json_values)
def test_what_is_read_is_canonical_and_goes_through_a_table(turns: Chat, tools: Any) -> None:
    row = {"messages": [ASKED, *turns, ANSWERED][: len(turns) + 1 + (len(turns) % 2)], "tools": tools}
    try:
        messages, definitions = read_row(row, LAYOUTS[0])
    except BadRow:
        return
    again = canonical_messages(
        Turn(
            message["role"],
            message["content"],
            "",
            message.get("reasoning_content"),
            message.get("tool_calls"),
            message.get("tool_call_id"),
            message.get("name"),
        )
        for message in messages
    )
    assert again == messages and messages[-1]["role"] == "assistant"
    chat = chat_messages(messages)
    rows = [{"messages": chat, "tools": chat_tools(definitions)}]
    assert read_row(json.loads(json.dumps(rows))[0], LAYOUTS[0]) == (messages, definitions)
    assert pl.DataFrame({"tools": [definitions]})["tools"].item() == definitions
