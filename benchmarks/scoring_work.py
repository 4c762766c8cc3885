"""What scoring the rows must cost: their tokens and products, and the rate at which this machine multiplies.

Attention is left out, and so is everything between the products: a floor, which nothing reaches.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scoring_baselines import Sequence, sequence
from scoring_rows import Rows

from dselect_core.corpus.sample import chat_messages
from dselect_core.lm.load import LanguageModel


@dataclass(frozen=True)
class Work:
    """The rows as token sequences, in our rendering: zero-shot, behind the shot, and what follows the shot."""

    zero: list[Sequence]
    one: list[Sequence]
    continuations: int  # tokens, all rows

    @property
    def zero_tokens(self) -> int:
        return sum(row.ids.shape[1] for row in self.zero)

    @property
    def two_pass_tokens(self) -> int:
        return self.zero_tokens + sum(row.ids.shape[1] for row in self.one)

    @property
    def tree_tokens(self) -> int:
        return self.zero_tokens + self.continuations

    @property
    def scored(self) -> int:
        return sum(len(row.scored) for row in self.zero + self.one)

    def flops(self, model: Any) -> float:
        head = model.get_output_embeddings()
        body: int = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
        return 2.0 * (body * self.tree_tokens + int(head.weight.numel()) * self.scored)


def work(lm: LanguageModel, rows: Rows) -> Work:
    rendered = {key: lm.renderer.render(chat_messages(messages)) for key, messages, *_ in rows.samples.iter_rows()}
    zero, one, continuations = [], [], 0
    for row, shot in rows.shots.iter_rows():
        built = lm.renderer.one_shot(rendered[row], rendered[shot])
        assert built is not None and built.shared, "rows are cut so that each fits behind its shot"
        zero.append(sequence(rendered[row].ids, rendered[row].response))
        one.append(sequence(built.ids, built.scored))
        continuations += len(built.ids) - built.shared
    return Work(zero, one, continuations)


def matrix_rate(
    model: Any, dtype: torch.dtype = torch.float32, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best rate, FLOP/s on the threads set, of products in the model's shapes and of a large square."""
    width, vocabulary = model.config.hidden_size, model.config.vocab_size
    inner = model.config.intermediate_size
    shapes = [(2048, width, inner), (2048, inner, width), (512, width, vocabulary), (2048, 2048, 2048)]
    best = 0.0
    for n, k, m in shapes:
        a, b = torch.rand(n, k).to(dtype), torch.rand(m, k).to(dtype)  # b as a linear layer holds it
        out = torch.empty(n, m, dtype=dtype)
        until, done = clock() + 1.0, 0
        while done < 3 or clock() < until:
            start, done = clock(), done + 1
            torch.mm(a, b.T, out=out)
            best = max(best, 2.0 * n * k * m / (clock() - start))
    return best
