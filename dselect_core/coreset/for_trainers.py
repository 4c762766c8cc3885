"""What a trainer needs beside a coreset's rows: its own description of them, ready to be named in a command.

    trl           dataset/, sft.yaml                            trl sft --config sft.yaml --model_name_or_path …
    axolotl       coreset.jsonl, axolotl.yaml                   the lines to put into a config
    llamafactory  coreset.json, dataset_info.json               dataset_dir: this folder, dataset: the recipe

The forms are those that each documents (TRL 1: `DatasetMixtureConfig`, `SFTConfig`; axolotl: conversation datasets;
LLaMA-Factory: data/README.md). Trade-off: LLaMA-Factory's ShareGPT form has calls instead of an answer or an answer
instead of calls, and takes turns one by one. What does not fit is left out and counted, never bent.
"""

import json
from collections.abc import Callable
from typing import Any

import yaml
from upath import UPath

from dselect_core.coreset.published import PublishedVersion, read_version
from dselect_core.corpus.sample import message_text
from dselect_core.errors import DselectError
from dselect_core.storage.files import write_bytes

_DATASET = ("dataset/README.md", "dataset/data/train-00000-of-00001.parquet")


def export_for(folder: UPath, target: str, trainer: str) -> tuple[list[UPath], int]:
    """Write a made coreset for a trainer; returns what was written, and how many rows do not fit its form.

    Raises DselectError for an unknown trainer, and when the coreset is not made or a file of it is gone.
    """
    if trainer not in _WRITERS:
        raise DselectError(f"unknown trainer {trainer!r}; known: {', '.join(_WRITERS)}")

    def write(version: PublishedVersion) -> tuple[list[UPath], int]:
        files, left_out = _WRITERS[trainer](version)
        for name, data in files.items():
            write_bytes(data, UPath(target) / name)
        return [UPath(target) / name for name in files], left_out

    try:
        return read_version(folder, write)
    except FileNotFoundError as error:
        raise DselectError(
            f"{folder}: this coreset is not made, or not whole ({error}); run `dselect refresh`"
        ) from None


Files = tuple[dict[str, bytes], int]
"""{name: content}, and how many rows were left out."""


def _for_trl(version: PublishedVersion) -> Files:
    config = {"dataset_name": "dataset", "dataset_train_split": "train"}
    head = "# trl sft --config sft.yaml --model_name_or_path MODEL --output_dir OUT, in this folder\n"
    return {name: version.read(name) for name in _DATASET} | {"sft.yaml": _yaml(config, head)}, 0


def _for_axolotl(version: PublishedVersion) -> Files:
    dataset = {
        "path": "coreset.jsonl",
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
    }
    head = "# For a config of axolotl that is run in this folder; its other keys are yours.\n"
    files = {"coreset.jsonl": version.read("coreset.jsonl"), "axolotl.yaml": _yaml({"datasets": [dataset]}, head)}
    return files, 0


def _for_llamafactory(version: PublishedVersion) -> Files:
    # Not `splitlines`: a text may hold a line separator.
    rows = [json.loads(line) for line in version.read("coreset.jsonl").split(b"\n") if line]
    fitting = [row for row in map(_sharegpt, rows) if row is not None]
    description = {
        "file_name": "coreset.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "tools": "tools"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "observation",
            "function_tag": "function",
            "system_tag": "system",
        },
    }
    files = {
        "coreset.json": (json.dumps(fitting, ensure_ascii=False, indent=1) + "\n").encode(),
        "dataset_info.json": (json.dumps({version.manifest["recipe"]: description}, indent=1) + "\n").encode(),
    }
    return files, len(rows) - len(fitting)


def _sharegpt(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row as LLaMA-Factory reads it; None where it has no such form."""
    messages = [_sharegpt_message(message) for message in row["messages"]]
    roles = [message["role"] for message in messages if message is not None]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    asks, answers = turns[::2], turns[1::2]
    fits = len(turns) % 2 == 0 and set(asks) <= {"user", "observation"} and set(answers) <= {"assistant", "function"}
    if None in messages or not fits:
        return None
    tools = json.dumps(row["tools"], ensure_ascii=False) if row.get("tools") else ""
    return {"messages": messages, "tools": tools}


def _sharegpt_message(message: dict[str, Any]) -> dict[str, str] | None:
    calls = message.get("tool_calls")
    if calls:
        if message["content"] or message.get("reasoning_content"):
            return None
        functions = [call["function"] for call in calls]
        return {"role": "function", "content": json.dumps(functions, ensure_ascii=False)}
    role = "observation" if message["role"] == "tool" else message["role"]
    return {"role": role, "content": message_text(message, reasoning=True)}


def _yaml(values: dict[str, Any], head: str) -> bytes:
    return (head + yaml.safe_dump(values, sort_keys=False)).encode()


_WRITERS: dict[str, Callable[[PublishedVersion], Files]] = {
    "trl": _for_trl,
    "axolotl": _for_axolotl,
    "llamafactory": _for_llamafactory,
}
