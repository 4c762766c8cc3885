"""A reward model for the study (evidence.py), which no registry here serves: tuned on pairs of answers, by LoRA.

A pair is a row that the study uses nowhere else: its own answer, and the answer of another row of its corpus. The loss
is Bradley and Terry's, -log sigmoid(own reward - other reward). So the model learns which answer goes with which
question, and nothing of taste: less than a reward model that was tuned on people's choices would know.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

PAIRS, CHECKED = 600, 60
"""Pairs that are tuned on, and those of them that are kept back to count how often the own answer has more."""

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "modules_to_save": ["score"]}
TRAINING = {
    "num_train_epochs": 1,
    "learning_rate": 2e-4,
    "per_device_train_batch_size": 8,
    "warmup_steps": 5,
    "seed": 0,
}


def make_pairs(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """{"chosen", "rejected"}: messages. Each row's answer beside that of the next one."""
    rows = rows[:count]
    others = [*rows[1:], *rows[:1]]
    return [
        {"chosen": row["messages"], "rejected": [*row["messages"][:-1], other["messages"][-1]]}
        for row, other in zip(rows, others, strict=True)
        if row["messages"][-1] != other["messages"][-1]
    ]


def tune_reward_model(model: Path, pairs_file: Path, folder: Path) -> None:
    """Write a sequence classification model of one value into a folder, unless it is there."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments, set_seed

    if (folder / "config.json").exists():
        return
    pairs = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    random.Random(0).shuffle(pairs)
    set_seed(TRAINING["seed"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    tuned = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **LORA))
    arguments = TrainingArguments(
        str(folder / "tuning"),
        bf16=True,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        logging_steps=5,
        **TRAINING,
    )
    checked, tuned_on = pairs[:CHECKED], pairs[CHECKED:]
    trainer = _pair_trainer()(tuned, arguments, _Pairs(tokenizer), train_dataset=tuned_on, eval_dataset=checked)
    trainer.train()
    print(
        f"{len(tuned_on)} pairs; the own answer has the higher reward in {_right(trainer):.0%} of {len(checked)} others"
    )
    tuned.merge_and_unload().to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class _Pairs:
    """Pairs → one batch: the chosen conversations, then the rejected ones."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def __call__(self, pairs: list[dict[str, Any]]) -> Any:
        conversations = [pair[side] for side in ("chosen", "rejected") for pair in pairs]
        texts = [self._tokenizer.apply_chat_template(each, tokenize=False) for each in conversations]
        return self._tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")


def _pair_trainer() -> Any:
    from transformers import Trainer

    class PairTrainer(Trainer):
        """Trainer with the loss of Bradley and Terry."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            chosen, rejected = model(**inputs).logits.squeeze(-1).float().chunk(2)
            loss = -logsigmoid(chosen - rejected).mean()
            return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss

    return PairTrainer


@torch.inference_mode()
def _right(trainer: Any) -> float:
    trainer.model.eval()
    right = 0
    for batch in trainer.get_eval_dataloader():
        _, of = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        right += int((of["chosen"] > of["rejected"]).sum())
    return right / len(trainer.eval_dataset)
