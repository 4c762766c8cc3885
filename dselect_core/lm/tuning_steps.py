"""Which examples each optimizer step sees: every epoch passes every example once, in an order of its own."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dselect_core.lm.tuning import Example, TuneSpec


def plan_steps(examples: Sequence[Example], spec: TuneSpec) -> list[list[Example]]:
    """The examples of each step, at most `batch_tokens` tokens together; a longer example has a step of its own.

    The plan follows from the lengths and the spec. A part of an epoch passes as large a part of the examples, one at
    least. No step reaches over the end of an epoch.
    """
    order = np.random.default_rng(spec.seed % 2**64)
    steps: list[list[Example]] = []
    left = math.inf if spec.max_steps is not None else max(1, round(spec.epochs * len(examples)))
    while left > 0 and (spec.max_steps is None or len(steps) < spec.max_steps):
        epoch = order.permutation(len(examples))[: int(min(left, len(examples)))]
        steps.extend(_filled([examples[i] for i in epoch], spec.batch_tokens))
        left -= len(epoch)
    return steps[: spec.max_steps]


def _filled(examples: list[Example], budget: int) -> Iterator[list[Example]]:
    step: list[Example] = []
    tokens = 0
    for example in examples:
        if step and tokens + len(example.ids) > budget:
            yield step
            step, tokens = [], 0
        step.append(example)
        tokens += len(example.ids)
    yield step
