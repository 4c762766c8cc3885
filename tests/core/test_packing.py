"""Batches of trees: nothing lost, nothing twice, roots in front, budgets kept; and what happens when memory ends."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.lm.forward import Forward
from dselect_core.lm.loss import loss_and_entropy, loss_and_entropy_of
from dselect_core.lm.packing import Sequence, Tree, fill, flat, padded
from tests.core.test_families import make, scores, trees


def sequence(name: str, length: int) -> Sequence:
    return Sequence(name, np.arange(length, dtype=np.int32), np.arange(length) > 0)


SHAPES = st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 30), max_size=6)), max_size=8)


@given(SHAPES, st.integers(1, 80))
@settings(max_examples=300, deadline=None)
def test_each_sequence_stands_in_one_batch_behind_its_root(shape: list[tuple[int, list[int]]], budget: int) -> None:
    made = [
        Tree(sequence(f"{i}", n), tuple(sequence(f"{i}.{j}", m) for j, m in enumerate(children)))
        for i, (n, children) in enumerate(shape)
    ]
    batches = list(fill(made, budget))
    named = Counter(s.name for batch in batches for s in batch if s.name is not None)
    assert named == Counter([t.root.name for t in made] + [c.name for t in made for c in t.children])
    for batch in batches:
        trees_here = sum(s.root is None for s in batch)
        assert sum(map(len, batch)) <= budget or (trees_here == 1 and len(batch) <= 2)
        for at, s in enumerate(batch):
            if s.root is not None:
                assert any(s.root is other for other in batch[:at])
                assert (s.root.ids == np.arange(len(s.root))).all()


def test_positions_go_on_after_the_root_and_the_first_token_is_predicted_by_the_roots_last() -> None:
    root = sequence("r", 4)
    child = Sequence("c", np.array([7, 8], dtype=np.int32), np.array([True, True]), root=root)
    other = sequence("o", 3)
    layout = flat([root, child, other])
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    before, target, owner = layout.scored()
    assert before.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert target.tolist() == [1, 2, 3, 7, 8, 1, 2]
    assert owner.tolist() == [0, 0, 0, 1, 1, 2, 2]
    rows, longest = padded([root, child, other])
    assert longest == 6
    assert rows.ids.reshape(3, 6).tolist() == [[0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 7, 8], [0, 1, 2, 0, 0, 0]]
    assert rows.scored()[0].tolist() == [0, 1, 2, 9, 10, 12, 13]


@pytest.mark.parametrize("bias", [True, False])
def test_the_blockwise_head_gives_softmax_loss_and_entropy(bias: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 1003, bias=bias)
    states = torch.randn(70, 16) * 5
    targets = torch.randint(0, 1003, (70,))
    log_p = torch.log_softmax(head(states).double(), -1)
    loss, entropy = -log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    with torch.inference_mode():
        for block in ((1024, 1024), (7, 100), (70, 1003), (5, 1)):
            found = loss_and_entropy(states, targets, head, block)
            assert (found[0] - loss).abs().max() < 1e-5 and (found[1] - entropy).abs().max() < 1e-5, block
        found = loss_and_entropy_of(head, states, targets, 1003)
        assert (found[0] - loss).abs().max() < 1e-5 and (found[1] - entropy).abs().max() < 1e-5
        assert [len(x) for x in loss_and_entropy(states[:0], targets[:0], head)] == [0, 0]


class Small:
    """A hook that runs out of memory above so many tokens, as a device would."""

    def __init__(self, most: int):
        self.most, self.refused = most, 0

    def __call__(self, _module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["input_ids"].numel() > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_the_budget_and_goes_on() -> None:
    forward = Forward(make("llama"))
    expected = scores(forward, 10_000)
    small = Small(60)
    forward.body.register_forward_pre_hook(small, with_kwargs=True)
    found = scores(forward, 10_000)
    assert small.refused >= 1 and forward.memory_budget is not None and forward.memory_budget <= 62
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name]["loss"] == pytest.approx(expected[name]["loss"], abs=2e-5)
    refused = small.refused
    scores(forward, 10_000)
    assert small.refused == refused, "the budget that fitted is remembered"


def test_a_sequence_that_cannot_fit_is_an_error_that_says_what_to_do() -> None:
    forward = Forward(make("llama"))
    forward.body.register_forward_pre_hook(Small(20), with_kwargs=True)
    with pytest.raises(DselectError, match=r"of \d+ tokens does not fit into the memory of cpu: lower `max_length`"):
        list(forward.over(trees(), 10_000))
