"""The warm-up: build a small Llama and tune it on a small part of the pool, on the CPU, in seconds.

It replaces a real base model where there is none (a demo, a test, a laptop without network): 2–3 M parameters, a
byte-level BPE tokenizer trained on the same pool, a ChatML template. Its losses rank rows far better than an untrained
model's and far worse than a real one's. One line of dselect.yaml names any Hugging Face causal LM in its place.

It is tuned on one thread, whatever the process may use: sums that several threads share are rounded in another order,
300 steps amplify that, and the model would depend on the number of cores. One thread costs about a tenth of the time on
two cores. Another type of CPU still rounds in its own way, and so makes another model.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.lm.chat_template import BUILTIN_TEMPLATE
from dselect_core.progress import Progress
from dselect_core.settings.settings import WarmupSpec

REVISION = 1
"""Not raised when tuning went to one thread: a store keeps the model that it has, and no score moves."""
# Limits on the text that trains the tokenizer: more text changes a 4k vocabulary little and costs minutes.
TOKENIZER_SAMPLES = 20_000
TOKENIZER_CHARACTERS = 2_000


def warmup_sample(pool: pl.DataFrame, spec: WarmupSpec) -> pl.DataFrame:
    """The `spec.samples` rows with the smallest seeded hash of their id; it does not depend on the rows' order."""
    keys = [digest([str(spec.seed), i]) for i in pool["sample_id"]]
    return pool.with_columns(key=pl.Series(keys, dtype=pl.String)).sort("key").head(spec.samples).drop("key")


def train_tokenizer(pool: pl.DataFrame, spec: WarmupSpec) -> Any:
    """A byte-level BPE tokenizer with a ChatML template, trained on (at most 20,000 samples of) the pool."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = (
        warmup_sample(pool, spec.model_copy(update={"samples": TOKENIZER_SAMPLES}))["messages"]
        .explode()
        .struct.field("content")
        .str.slice(0, TOKENIZER_CHARACTERS)
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=BUILTIN_TEMPLATE,
        model_max_length=spec.window,
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside the context torch computes on one thread, so that sums do not depend on the number of cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def tune(pool: pl.DataFrame, spec: WarmupSpec, folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Make the builtin model from a SAMPLES frame and save it to `folder` (save_pretrained layout).

    The same pool and spec give the same bytes, whatever the number of threads and the order of the rows.
    Returns the number of parameters, vocabulary entries, samples, steps and tokens, and the first and last loss (nats
    per token, mean of 8 steps). Raises DselectError on an empty pool.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dselect_core.lm.load import quiet_transformers
    from dselect_core.lm.render import Renderer
    from dselect_core.lm.tuning import Example, TuneSpec
    from dselect_core.lm.tuning import tune as tune_on

    if pool.is_empty():
        raise DselectError("the warm-up needs at least one sample: every source is empty or quarantined")
    quiet_transformers()
    tokenizer = train_tokenizer(pool, spec)
    renderer = Renderer(tokenizer, min(spec.max_length, spec.window))
    rendered = [
        renderer.render(chat_messages(messages), chat_tools(tools))
        for _, messages, tools in conform_samples(warmup_sample(pool, spec))
        .select("sample_id", "messages", "tools")
        .iter_rows()
    ]
    rendered = [r for r in rendered if r.response_tokens]

    torch.manual_seed(spec.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=spec.hidden_size,
            intermediate_size=spec.hidden_size * 8 // 3 // 8 * 8,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.heads,
            max_position_embeddings=spec.window,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Prompts are tuned on too: the model's states embed prompts, and a pool is little text.
    examples = [Example(r.ids, np.arange(len(r.ids)) > 0) for r in rendered]
    how = TuneSpec(
        max_steps=spec.steps,
        learning_rate=spec.learning_rate,
        batch_tokens=spec.batch_tokens,
        seed=spec.seed,
        beta2=0.95,
    )
    tuned = tune_on(model, examples, how, progress=progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "samples": len(rendered),
        "steps": tuned.steps,
        "tokens": tuned.tokens,
        "loss_first": float(np.mean(tuned.losses[:8])),
        "loss_last": float(np.mean(tuned.losses[-8:])),
    }
