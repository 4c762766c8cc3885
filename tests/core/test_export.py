"""A coreset's files as their readers see them: `datasets`, a chat-template trainer, polars, an object store."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from upath import UPath

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when `datasets` is first imported

from dselect_core.coreset.export import write_coreset
from dselect_core.corpus.sample import MESSAGES as SAMPLE_MESSAGES
from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import Selection, select
from dselect_core.storage.files import read_metadata, read_parquet, write_parquet, write_text

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
ORIGINS = pl.List(pl.Struct({"source": pl.String, "file": pl.String, "row": pl.Int64}))
FILES = {
    "order.parquet",
    "coreset.jsonl",
    "coreset.parquet",
    "alpaca.json",
    "manifest.json",
    "dataset/README.md",
    "dataset/data/train-00000-of-00001.parquet",
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversation(i: int) -> list[dict[str, str]]:
    """Every third has a system prompt, every fourth a second exchange."""
    system = [turn("system", "Be brief.")] if i % 3 == 0 else []
    more = [turn("user", "And then?"), turn("assistant", f"Then {i}.")] if i % 4 == 0 else []
    # A line separator inside a text must not become a line of the JSONL.
    return [*system, turn("user", f"Was ist {i}?\u2028\n你好"), turn("assistant", f'"{i}" | yes'), *more]


N = 12
SAMPLES = pl.DataFrame(
    {
        "sample_id": [f"{i:032x}" for i in range(N)],
        "messages": [conversation(i) for i in range(N)],
        "n_rows": [1] * N,
        "origins": [
            [{"source": source, "file": f"{source}.jsonl", "row": i + 1} for source in ("a", "b")[: 1 + i % 2]]
            for i in range(N)
        ],
    },
    schema={"sample_id": pl.String, "messages": MESSAGES, "n_rows": pl.UInt32, "origins": ORIGINS},
)


def selection(budget: int, first: int = 0) -> Selection:
    """The lowest `loss` is null; the rest come highest first, which is by id, descending from N - 1."""
    scores = SAMPLES.select(
        "sample_id",
        loss=pl.Series([None if i == first else float(i) for i in range(N)]),
        response_tokens=pl.lit(3, pl.Int32),
    )
    return select(Pool.of(scores), CoresetSpec(strategy="topk:loss", budget=budget))


def files_in(folder: UPath) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture()
def folder(tmp_path: Path) -> UPath:
    return UPath(tmp_path) / "hardest"


@pytest.fixture()
def load(tmp_path: Path) -> Any:
    import datasets

    def load(folder: UPath) -> Any:
        return datasets.load_dataset(str(folder / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))

    return load


def test_files_counts_and_manifest(folder: UPath) -> None:
    counts = write_coreset(folder, selection(8), SAMPLES, {"recipe": "hardest", "seed": 0, "counts": {"sources": 2}})
    assert files_in(folder) == FILES
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    # Chosen are 11 to 4; 8 and 4 have two exchanges.
    assert counts == {
        "rows": 8,
        "pool": 12,
        "excluded": 1,
        "alpaca_rows": 6,
        "alpaca_left_out_multi_turn": 2,
        "response_tokens": 24,
    }
    assert manifest.pop("checksum") == fingerprint(manifest)
    listed = {name: (folder / name).read_bytes() for name in FILES - {"manifest.json"}}
    assert manifest.pop("files") == {
        name: {"bytes": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}
        for name, data in listed.items()
    }
    assert manifest == {
        "recipe": "hardest",
        "seed": 0,
        "counts": {"sources": 2, **counts},
        "excluded_reasons": {"no loss": 1},
        "composition": selection(8).composition.as_json(),
    }


def test_tables_are_in_rank_order_with_scores(folder: UPath) -> None:
    chosen = selection(8)
    write_coreset(folder, chosen, SAMPLES, {})
    assert read_parquet(folder / "order.parquet").equals(chosen.order)
    table = read_parquet(folder / "coreset.parquet")
    assert table.columns == [
        "sample_id", "rank", "messages", "origins", "n_rows", "gain", "loss", "response_tokens",
    ]  # fmt: skip
    assert table["sample_id"].to_list() == [f"{i:032x}" for i in range(11, 3, -1)]
    assert table["messages"].to_list() == [conversation(i) for i in range(11, 3, -1)]
    assert table["rank"].to_list() == list(range(1, 9))


def test_columns_the_pool_shares_with_the_corpus_come_once(folder: UPath) -> None:
    pool = Pool.of(SAMPLES.select("sample_id", "n_rows", sources=pl.lit("a, b")))
    write_coreset(folder, select(pool, CoresetSpec(strategy="random", budget=3)), SAMPLES, {})
    columns = ["sample_id", "rank", "messages", "origins", "n_rows", "gain", "sources"]
    assert read_parquet(folder / "coreset.parquet").columns == columns


def test_alpaca_holds_the_single_turn_samples(folder: UPath) -> None:
    write_coreset(folder, selection(3), SAMPLES, {})
    assert json.loads((folder / "alpaca.json").read_text("utf-8")) == [
        {"instruction": "Was ist 11?\u2028\n你好", "input": "", "output": '"11" | yes'},
        {"instruction": "Was ist 10?\u2028\n你好", "input": "", "output": '"10" | yes'},
        {"system": "Be brief.", "instruction": "Was ist 9?\u2028\n你好", "input": "", "output": '"9" | yes'},
    ]


def test_datasets_loads_the_folder(folder: UPath, load: Any) -> None:
    import datasets

    write_coreset(folder, selection(8), SAMPLES, {"recipe": "hardest"})
    loaded = load(folder)
    assert loaded["messages"] == [conversation(i) for i in range(11, 3, -1)]
    text = datasets.Value("string")
    assert loaded.features == datasets.Features(messages=datasets.List({"role": text, "content": text}), sample_id=text)


def test_datasets_never_serves_another_coreset_from_its_cache(tmp_path: Path, load: Any) -> None:
    """The folders share a name and the coresets a size: only the content tells them apart."""
    one, other = UPath(tmp_path) / "one", UPath(tmp_path) / "other"
    write_coreset(one, selection(8), SAMPLES, {"recipe": "same"})
    write_coreset(other, selection(8, first=11), SAMPLES, {"recipe": "same"})
    assert load(one)["sample_id"][0] == f"{11:032x}"
    assert load(other)["sample_id"][0] == f"{10:032x}"
    write_coreset(one, selection(8, first=11), SAMPLES, {"recipe": "same"})
    assert load(one)["sample_id"][0] == f"{10:032x}"


def test_the_card_says_where_the_samples_come_from(folder: UPath) -> None:
    write_coreset(folder, selection(8), SAMPLES, {"recipe": "hardest", "strategy": "topk:loss", "inputs": {"a": "1"}})
    card = (folder / "dataset" / "README.md").read_text("utf-8")
    assert "8 samples for instruction tuning, chosen by dselect from a pool of 12." in card
    assert "| strategy | topk:loss |" in card
    assert "| a | 8 |\n| b | 4 |" in card
    assert "n<1K" in card


def test_a_chat_template_trainer_can_use_the_jsonl(folder: UPath, tmp_path: Path) -> None:
    """What a supervised trainer does: load the JSONL, render with the template, mask all but the answers."""
    import datasets
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    write_coreset(folder, selection(8), SAMPLES, {})
    rows = datasets.load_dataset(
        "json", data_files=str(folder / "coreset.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows["sample_id"] == [f"{i:032x}" for i in range(11, 3, -1)]

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<pad>", "<end>"], initial_alphabet=alphabet)
    raw.train_from_iterator((m["content"] for row in rows["messages"] for m in row), trainer)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}"
    )

    def render(row: dict[str, Any]) -> dict[str, Any]:
        out = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": out["input_ids"], "mask": out["assistant_masks"]}

    for row, trained in zip(rows, rows.map(render), strict=True):
        answers = "".join(m["content"] + "<end>" for m in row["messages"] if m["role"] == "assistant")
        kept = [token for token, on in zip(trained["input_ids"], trained["mask"], strict=True) if on]
        assert tokenizer.decode(kept) == answers
        assert 0 < len(kept) < len(trained["input_ids"])


def test_a_chosen_sample_missing_from_the_corpus_is_an_error(folder: UPath) -> None:
    with pytest.raises(DselectError, match=r"1 chosen samples are not in the corpus, 0{31}b the first"):
        write_coreset(folder, selection(8), SAMPLES.head(11), {})
    assert not folder.exists()


def test_an_empty_selection_still_writes_every_file(folder: UPath) -> None:
    nothing = Pool.of(SAMPLES.head(0).select("sample_id"))
    counts = write_coreset(folder, select(nothing, CoresetSpec(strategy="random", budget="10%")), SAMPLES, {})
    assert files_in(folder) == FILES
    assert counts["rows"] == 0
    assert json.loads((folder / "alpaca.json").read_text()) == []


def test_an_interrupted_rewrite_of_a_folder_of_the_user_leaves_no_manifest_and_no_half_file(folder: UPath) -> None:
    write_coreset(folder, selection(8), SAMPLES, {})
    card = Path(str(folder)) / "dataset" / "README.md"
    card.unlink()
    (card / "in_the_way").mkdir(parents=True)  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        write_coreset(folder, selection(4), SAMPLES, {})
    assert files_in(folder) == FILES - {"manifest.json", "dataset/README.md"}
    assert read_parquet(folder / "order.parquet").height == 4


@pytest.fixture(scope="module")
def bucket() -> Iterator[UPath]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    root = UPath("s3://coresets", **options)
    root.fs.mkdir("coresets")
    yield root
    server.stop()


def test_object_store_holds_the_same_files(bucket: UPath, folder: UPath) -> None:
    for _ in range(2):  # the second time over its own files
        on_store = write_coreset(bucket / "out" / "hardest", selection(8), SAMPLES, {"recipe": "hardest"})
    assert on_store == write_coreset(folder, selection(8), SAMPLES, {"recipe": "hardest"})
    assert files_in(bucket / "out" / "hardest") == FILES
    for name in FILES:
        assert (bucket / "out" / "hardest" / name).read_bytes() == (folder / name).read_bytes()


def test_tables_keep_rows_and_metadata(bucket: UPath, tmp_path: Path) -> None:
    for place in (
        bucket / "t" / "part.parquet",
        UPath(tmp_path) / "t" / "part.parquet",
        UPath("memory://t/part.parquet"),
    ):
        write_parquet(SAMPLES, place, {"recipe": "é", "version": "1"})
        assert read_parquet(place).equals(SAMPLES)
        assert read_metadata(place) == {"recipe": "é", "version": "1"}
        write_parquet(SAMPLES.head(2), place)
        assert (read_parquet(place).height, read_metadata(place)) == (2, {})


def test_a_table_that_is_missing_or_broken_is_named(bucket: UPath, tmp_path: Path) -> None:
    for folder in (bucket / "t", UPath(tmp_path)):
        with pytest.raises(FileNotFoundError):
            read_parquet(folder / "none.parquet")
        write_parquet(SAMPLES, folder / "cut.parquet")
        (folder / "cut.parquet").write_bytes((folder / "cut.parquet").read_bytes()[:-20])
        for read in (read_parquet, read_metadata):
            with pytest.raises(DamagedFileError, match=r"cut\.parquet: damaged, "):
                read(folder / "cut.parquet")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = UPath(tmp_path) / "note.txt"
    write_text("old", target)
    with pytest.raises(UnicodeEncodeError):
        write_text("new \ud800", target)
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_text("new", UPath(tmp_path) / "taken")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", "taken"]


def test_reasoning_calls_and_tools_are_exported_where_they_are(folder: UPath) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    tools = [{"type": "function", "function": {"name": "add"}}]
    chats: list[list[dict[str, Any]]] = [
        [turn("user", "2+2?"), {**turn("assistant", "4"), "reasoning_content": "Two and two."}],
        [turn("user", "2+2?"), {**turn("assistant", ""), "tool_calls": [call]}],
        [turn("user", "2+2?"), turn("assistant", "4")],
    ]
    stored = [
        [
            {key: json.dumps(value) if key == "tool_calls" else value for key, value in message.items()}
            for message in chat
        ]
        for chat in chats
    ]
    samples = (
        SAMPLES.head(3)
        .drop("messages")
        .with_columns(
            pl.Series("messages", stored, dtype=SAMPLE_MESSAGES),
            tools=pl.Series([None, None, json.dumps(tools)], dtype=pl.String),
        )
    )
    pool = Pool.of(samples.select("sample_id"))
    chosen = select(pool, CoresetSpec(strategy="random", budget=3))
    counts = write_coreset(folder, chosen, samples, {})
    lines = [json.loads(line) for line in (folder / "coreset.jsonl").read_text("utf-8").splitlines()]
    of_id = {line.pop("sample_id"): line for line in lines}
    assert [of_id[id] for id in samples["sample_id"]] == [
        {"messages": chats[0]},
        {"messages": chats[1]},
        {"messages": chats[2], "tools": tools},
    ]
    assert json.loads((folder / "alpaca.json").read_text("utf-8")) == [
        {"instruction": "2+2?", "input": "", "output": "<think>\nTwo and two.\n</think>\n\n4"}
    ]
    assert {name: counts[name] for name in counts if name.startswith("alpaca")} == {
        "alpaca_rows": 1,
        "alpaca_left_out_multi_turn": 0,
        "alpaca_left_out_tools": 2,
    }
    table = read_parquet(folder / "coreset.parquet")
    inner = table.schema["messages"].inner  # type: ignore[union-attr, attr-defined]
    assert [field.name for field in inner.fields] == ["role", "content", "reasoning_content", "tool_calls"]
    assert "tools" in table.columns
