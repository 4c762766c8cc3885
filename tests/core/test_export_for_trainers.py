"""What trainers need beside the rows: read as each reads it."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from upath import UPath

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when `datasets` is first imported

from dselect_core.coreset.export import write_coreset
from dselect_core.coreset.for_trainers import export_for
from dselect_core.corpus.sample import MESSAGES, SAMPLES
from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import select

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def turn(role: str, content: str, **own: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | own


CONVERSATIONS = [
    ([turn("system", "Be brief."), turn("user", "a\u2028b"), turn("assistant", "c", reasoning_content="why")], None),
    (
        [turn("user", "2+2?"), turn("assistant", "", tool_calls=[CALL]), turn("tool", "4"), turn("assistant", "4")],
        TOOLS,
    ),
    ([turn("user", "2+2?"), turn("assistant", "Let me see.", tool_calls=[CALL])], TOOLS),
    ([turn("user", "d"), turn("assistant", "e"), turn("user", "f"), turn("assistant", "g")], None),
]


@pytest.fixture
def folder(tmp_path: Path) -> UPath:
    flat = [
        [
            {key: json.dumps(value) if key == "tool_calls" else value for key, value in message.items()}
            for message in chat
        ]
        for chat, _ in CONVERSATIONS
    ]
    ids = [f"{i:032x}" for i in range(len(flat))]
    samples = pl.DataFrame({"sample_id": ids, "n_rows": 1}).with_columns(
        messages=pl.Series(flat, dtype=MESSAGES),
        tools=pl.Series([None if tools is None else json.dumps(tools) for _, tools in CONVERSATIONS]),
        origins=pl.lit(None, SAMPLES["origins"]),
    )
    pool = Pool.of(pl.DataFrame({"sample_id": ids, "loss": [float(-i) for i in range(len(ids))]}))
    chosen = select(pool, CoresetSpec(strategy="topk:loss", budget=len(ids)))
    write_coreset(UPath(tmp_path / "made"), chosen, samples, {"recipe": "r"})
    return UPath(tmp_path / "made")


def test_llamafactory_gets_its_description_and_rows_in_turns(folder: UPath, tmp_path: Path) -> None:
    _, left_out = export_for(folder, str(tmp_path / "out"), "llamafactory")
    assert left_out == 1  # an answer and calls in one message
    description = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["r"]
    rows = json.loads((tmp_path / "out" / description["file_name"]).read_text())
    tags = description["tags"]
    assert len(rows) == 3
    for row in rows:
        turns = [message[tags["role_tag"]] for message in row[description["columns"]["messages"]]]
        turns = turns[1:] if turns[0] == tags["system_tag"] else turns
        assert len(turns) % 2 == 0
        assert set(turns[::2]) <= {tags["user_tag"], tags["observation_tag"]}
        assert set(turns[1::2]) <= {tags["assistant_tag"], tags["function_tag"]}
    assert rows[0]["messages"][1:] == [turn("user", "a\u2028b"), turn("assistant", "<think>\nwhy\n</think>\n\nc")]
    assert json.loads(rows[1]["messages"][1]["content"]) == [CALL["function"]]
    assert json.loads(rows[1]["tools"]) == TOOLS


def test_trl_and_axolotl_name_files_that_datasets_loads(folder: UPath, tmp_path: Path) -> None:
    import datasets

    for trainer in ("trl", "axolotl"):
        assert export_for(folder, str(tmp_path / trainer), trainer)[1] == 0
    trl = yaml.safe_load((tmp_path / "trl" / "sft.yaml").read_text())
    loaded = datasets.load_dataset(str(tmp_path / "trl" / trl["dataset_name"]), cache_dir=str(tmp_path / "cache"))
    assert loaded[trl["dataset_train_split"]].num_rows == len(CONVERSATIONS)
    axolotl = yaml.safe_load((tmp_path / "axolotl" / "axolotl.yaml").read_text())["datasets"][0]
    lines = (tmp_path / "axolotl" / axolotl["path"]).read_bytes().split(b"\n")
    first = json.loads(lines[0])[axolotl["field_messages"]]
    assert set(axolotl["message_property_mappings"].values()) <= first[0].keys()


def test_what_cannot_be_written_is_an_error(folder: UPath, tmp_path: Path) -> None:
    with pytest.raises(DselectError, match="unknown trainer 'nanogpt'; known: trl, axolotl, llamafactory"):
        export_for(folder, str(tmp_path / "out"), "nanogpt")
    with pytest.raises(DselectError, match="dselect refresh"):
        export_for(UPath(tmp_path / "absent"), str(tmp_path / "out"), "trl")
    assert not (tmp_path / "out").exists()
