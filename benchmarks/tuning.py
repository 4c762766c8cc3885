"""What tuning costs: ours, against transformers' Trainer as its documentation uses it, on the same rows.

    [DSELECT_MODEL=<folder>] python benchmarks/tuning.py [--rows N] [--method full|lora] [--bf16] [--batch-tokens B] \\
        [--repeats R] [--threads T]

Both sides pass the same rows of the demo corpus once, with the same loss (responses only), optimizer, LoRA matrices
and numeric type, in as many steps. The plain side pads rows to the longest of its batch, as DataCollatorForSeq2Seq
does, and runs the output layer on all tokens. Sides run interleaved in one process on models of their own; figures
are medians, ratios the medians of those within a repetition. The time to render, load and save is in neither.

Equal first: the mean loss of the first step, on the same rows, must be the same within 1e-3 (0.02 with --bf16).

Without DSELECT_MODEL the model is the builtin one's shape with random weights.
"""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import polars as pl
import torch
from measure import interleaved, ratio, table

from demo.corpus import SOURCES, write_corpus
from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.sample import chat_messages
from dselect_core.lm.builtin_model import train_tokenizer, warmup_sample
from dselect_core.lm.load import quiet_transformers
from dselect_core.lm.render import Renderer
from dselect_core.lm.tuning import Example, TuneSpec, tune
from dselect_core.lm.tuning_steps import plan_steps
from dselect_core.settings.settings import SourceSpec, WarmupSpec

WINDOW = 512


def pool() -> pl.DataFrame:
    """SAMPLES of the demo corpus."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder))
        frames = [ingest(name, SourceSpec(path=f"{folder}/{file}")).samples for name, file in SOURCES.items()]
        return pl.concat(frames).unique("sample_id", keep="first").sort("sample_id")


def open_model(samples: pl.DataFrame) -> tuple[Any, Any]:
    """(tokenizer, model): those of DSELECT_MODEL, or of the builtin model's shape."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if path := os.environ.get("DSELECT_MODEL"):
        return AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    spec = WarmupSpec()
    config = LlamaConfig(
        vocab_size=spec.vocab_size, hidden_size=spec.hidden_size, intermediate_size=spec.hidden_size * 8 // 3 // 8 * 8,
        num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.heads,
        max_position_embeddings=spec.window, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return train_tokenizer(samples, spec), LlamaForCausalLM(config)


def plain(model: Any, examples: list[Example], spec: TuneSpec, rows: int, folder: str) -> float:
    """One epoch of the plain Trainer, `rows` a step; the mean loss of its steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, TrainingArguments

    if spec.method == "lora":
        model = get_peft_model(
            model, LoraConfig(r=spec.lora_rank, lora_alpha=2 * spec.lora_rank, target_modules="all-linear")
        )
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=rows, num_train_epochs=1, learning_rate=spec.learning_rate,
        bf16=spec.bf16, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, warmup_steps=1,
        dataloader_pin_memory=False, remove_unused_columns=False, seed=spec.seed,
    )  # fmt: skip
    data: Any = [
        {"input_ids": e.ids.astype(np.int64), "labels": np.where(e.scored, e.ids, -100).astype(np.int64)}
        for e in examples
    ]
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=_padded)
    trainer.remove_callback(PrinterCallback)
    return float(trainer.train().training_loss)


def _padded(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """What DataCollatorForSeq2Seq makes of them, without a tokenizer's pad token."""

    def column(name: str, fill: int) -> torch.Tensor:
        parts = [torch.from_numpy(row[name]) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)

    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], batch_first=True
    )
    return {"input_ids": column("input_ids", 0), "labels": column("labels", -100), "attention_mask": mask}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    quiet_transformers()
    samples = pool()
    tokenizer, model = open_model(samples)
    renderer = Renderer(tokenizer, WINDOW)
    some = warmup_sample(samples, WarmupSpec(samples=chosen.rows))
    rendered = [renderer.render(chat_messages(messages)) for messages in some["messages"]]
    examples = [Example.of(each) for each in rendered if each.response_tokens]
    spec = TuneSpec(
        method=chosen.method, epochs=1, batch_tokens=chosen.batch_tokens, learning_rate=1e-4, bf16=chosen.bf16
    )
    steps = plan_steps(examples, spec)
    rows = round(len(examples) / len(steps))
    with tempfile.TemporaryDirectory() as folder:
        one, other = copy.deepcopy(model), copy.deepcopy(model)
        first = tune(one, steps[0], TuneSpec(**{**vars(spec), "batch_tokens": 10**9})).losses[0]
        theirs = plain(other, steps[0], spec, len(steps[0]), folder)
        bound = 1e-3 if not chosen.bf16 else 2e-2
        assert abs(first - theirs) < bound, f"the losses differ: {first} and {theirs}"
        sides: dict[str, Callable[[], Any]] = {
            "plain Trainer, padded": lambda: plain(copy.deepcopy(model), examples, spec, rows, folder),
            "ours": lambda: tune(copy.deepcopy(model), examples, spec).losses,
        }
        measured = interleaved(sides, chosen.repeats, warm_up=False)
    ours = measured["ours"]
    tokens = sum(len(example.ids) for example in examples)
    scored = sum(int(example.scored.sum()) for example in examples)
    print(f"{len(examples)} rows, {tokens} tokens, {scored} scored, {len(steps)} steps; {type(model).__name__}")
    print(vars(spec))
    print(f"first step's loss: ours {first:.5f}, plain {theirs:.5f}")
    lines = []
    for name, side in measured.items():
        cpu = side.median_cpu
        figures = [cpu, side.median_wall, ratio(side, ours, "cpu"), tokens / cpu, max(side.peak)]
        lines.append(
            [name, *(f"{figure:,.{digits}f}" for figure, digits in zip(figures, (1, 1, 2, 0, 0), strict=True))]
        )
    print(table(["side", "CPU s", "wall s", "CPU / ours", "tokens a CPU s", "peak MB"], lines))


if __name__ == "__main__":
    main()
