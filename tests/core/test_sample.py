"""Samples: their fields, ids, and tables of older versions."""

import json

import polars as pl

from dselect_core.corpus.sample import (
    MESSAGES,
    OPTIONAL_FIELDS,
    chat_messages,
    conform_samples,
    message_text,
    sample_id,
    trim_fields,
)
from dselect_core.fingerprint import digest
from dselect_core.graders.heuristic_grader import grade_messages
from dselect_core.graders.heuristics.turn import turns
from dselect_core.graders.judge_prompt import RATING


def test_fields_beside_content_are_part_of_the_id_and_plain_text_keeps_the_id_it_had() -> None:
    plain = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    empty = [{**message, **dict.fromkeys(OPTIONAL_FIELDS)} for message in plain]
    assert sample_id(plain) == sample_id(empty) == digest(["user", "2+2?", "assistant", "4"])
    others = [[plain[0], {**plain[1], name: "[]"}] for name in OPTIONAL_FIELDS]
    ids = {sample_id(plain), sample_id(plain, "[]"), *map(sample_id, others)}
    assert len(ids) == len(others) + 2


def test_tables_of_older_versions_conform_and_fields_that_nobody_uses_are_not_shown() -> None:
    old = pl.DataFrame(
        {"sample_id": ["x"], "messages": [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]}
    )
    conformed = conform_samples(old)
    assert conformed.schema["messages"] == MESSAGES
    assert conformed["tools"].to_list() == [None]
    assert trim_fields(conformed).equals(old)
    called = [{"role": "assistant", "content": "", "tool_calls": '[{"id": 1}]'}]
    mixed = pl.DataFrame(
        {"sample_id": ["y"], "messages": [called], "tools": ["[]"]}, schema_overrides={"messages": MESSAGES}
    )
    trimmed = trim_fields(mixed)
    assert trimmed["messages"].to_list() == [called]
    assert chat_messages(mixed["messages"].item().to_list()) == [{**called[0], "tool_calls": [{"id": 1}]}]


def test_a_message_as_text_holds_its_calls_and_on_request_its_reasoning() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "é"}}}
    called = {"role": "assistant", "content": "I add.", "tool_calls": [call], "reasoning_content": "Two."}
    shown = 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": "é"}}\n</tool_call>'
    assert message_text(called) == message_text({**called, "tool_calls": json.dumps([call])}) == shown
    assert message_text(called, reasoning=True) == f"<think>\nTwo.\n</think>\n\n{shown}"
    assert message_text({"role": "tool", "content": "", "tool_calls": None}) == ""


def test_readers_of_conversations_see_calls() -> None:
    call = '[{"type":"function","function":{"name":"add","arguments":{"a":2}}}]'
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "", "tool_calls": call}]
    assert '{"name": "add", "arguments": {"a": 2}}' in RATING.chat("id", messages, "Rate.")[1]["content"]
    (turn,) = turns(messages)
    assert "add" in turn.response and grade_messages(messages)[0] == 1
