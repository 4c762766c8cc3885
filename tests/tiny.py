"""Tiny models and samples that tests make for themselves: no hub, a second at most."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from dselect_core.corpus.sample import SAMPLES, sample_id
from dselect_core.lm.chat_template import BUILTIN_TEMPLATE
from dselect_core.lm.load import LanguageModel, load
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings

Message = dict[str, str]

TEXTS = [
    "What is 17 times 23? It is 391, because 17 times 20 is 340 and 17 times 3 is 51.",
    "Name three rivers of Europe: the Rhine, the Danube and the Loire.",
    "Write a line of Python that sorts a list: sorted(words)",
    "Grüße aus Köln, 東京から – emoji 🙂 and\nnew lines\n\nwith   spaces",
]


def conversation(*turns: str, system: str | None = None) -> list[Message]:
    """Turns from the user on, in turn; a system prompt in front if given."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def samples_frame(conversations: list[list[Message]]) -> pl.DataFrame:
    """A SAMPLES frame of distinct conversations, ascending by id."""
    rows = {sample_id(messages): messages for messages in conversations}
    return pl.DataFrame(
        [
            {"sample_id": key, "messages": rows[key], "n_rows": 1, "origins": [{"source": "s", "file": "f", "row": i}]}
            for i, key in enumerate(sorted(rows), 1)
        ],
        schema=SAMPLES,
    )


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A byte-level BPE of 400 tokens with the builtin chat template. Do not change it: train another."""
    return byte_level_bpe(TEXTS, 400)


def byte_level_bpe(texts: list[str], size: int) -> Any:
    """A byte-level BPE of at most `size` tokens, trained on the texts, with the builtin chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    raw.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=BUILTIN_TEMPLATE,
    )


@lru_cache(maxsize=1)
def sentencepiece_tokenizer() -> Any:
    """A BPE in the manner of Llama 2: a space in front of any text it is given, bytes for unknown characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    raw.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.pre_tokenizer = Split("▁", "merged_with_next")  # type: ignore[assignment]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        [*TEXTS * 3, *["Iron is a metal. Iron. Name a metal."] * 5],
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False),
    )
    raw.pre_tokenizer = None  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = BUILTIN_TEMPLATE
    return tokenizer


def save_llama(folder: Path, *, seed: int = 0, window: int = 256, template: str | None = BUILTIN_TEMPLATE) -> Path:
    """A random Llama with peaked outputs (so that scores spread), saved as a user's model folder would be."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=100,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=window,
            initializer_range=0.3,
        )
    )
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    # The template lies in a file of its own; without it the tokenizer has none.
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def save_encoder(
    folder: Path, *, pooling: str | None = None, normalize: bool = False, window: int = 64, prompt: str | None = None
) -> Path:
    """A random BERT with the tokenizer above and 64 positions, as a user's encoder folder would be.

    With `pooling` it is a sentence-transformers folder, laid out as those of BGE and MiniLM on the hub.
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer()), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if pooling is None:
        return folder
    names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    flags = {f"pooling_mode_{mode}": mode in (pooling, f"{pooling}_token", f"{pooling}_tokens") for mode in modes}
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": window, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 24, **flags},
    }
    if prompt is not None:
        files["config_sentence_transformers.json"] = {"prompts": {"query": prompt}, "default_prompt_name": "query"}
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def open_llama(folder: Path, **spec: Any) -> LanguageModel:
    return load(str(folder), ModelSpec(path=str(folder), **spec), "test")


def score(
    lm: LanguageModel, samples: pl.DataFrame, kinds: frozenset[str], settings: Settings
) -> dict[str, pl.DataFrame]:
    """All batches of one pass, a frame a kind, ascending by id."""
    batches = list(forward_scores(lm, samples, kinds, settings))
    return {kind: pl.concat([batch[kind] for batch in batches]).sort("sample_id") for kind in kinds}
