"""Tiny reward models and judges, saved as a user's model folders would be."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dselect_core.lm.chat_template import BUILTIN_TEMPLATE
from tests.tiny import TEXTS, byte_level_bpe

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ANSWERS = ("yes", "Yes", "YES", " yes", " Yes", "no", "No", " no", " No")


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A byte-level BPE in which yes and no are tokens, in several forms; ` YES`, `NO` and ` NO` are not."""
    return byte_level_bpe([*TEXTS, *[answer for answer in ANSWERS for _ in range(20)]], 420)


def _save(model: Any, folder: Path, template: str | None) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    # The template lies in a file of its own; without it the tokenizer has none.
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def save_reward_model(
    folder: Path,
    *,
    family: str = "llama",
    labels: int = 1,
    padding: int | None = None,
    window: int = 256,
    seed: int = 0,
    template: str | None = BUILTIN_TEMPLATE,
) -> Path:
    """A random sequence classifier whose rewards spread. padding: `pad_token_id` of its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer()), max_position_embeddings=window, num_labels=labels, pad_token_id=padding,
        initializer_range=0.3, **SIZES,
    )  # fmt: skip
    return _save(AutoModelForSequenceClassification.from_config(config), folder, template)


def save_judge(
    folder: Path,
    *,
    family: str = "llama",
    window: int = 2048,
    seed: int = 0,
    louder: float = 3.0,
    template: str | None = BUILTIN_TEMPLATE,
) -> Path:
    """A random causal LM. louder: by how much the logits of yes and no are larger than those of other tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer()), max_position_embeddings=window, initializer_range=0.3,
        tie_word_embeddings=False, **SIZES,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[answer_ids()] *= louder
    return _save(model, folder, template)


def answer_ids() -> list[int]:
    """The tokens that are yes or no, as the tokenizer itself encodes them."""
    encoded = [tokenizer()(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
    assert all(len(ids) == 1 for ids in encoded)
    return [ids[0] for ids in encoded]
