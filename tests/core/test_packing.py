"""Batches of trees: nothing lost, nothing twice, roots in front, budgets kept; and what happens when memory ends."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.lm import attention
from dselect_core.lm.forward import Forward
from dselect_core.lm.loss import loss_and_entropy, loss_and_entropy_of
from dselect_core.lm.packing import Sequence, Tree, fill, flat, padded, share_beginning
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


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_what_begins_alike_shares_it_whole_and_each_keeps_a_token(texts: list[list[int]]) -> None:
    questions = [
        Sequence(number, np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=bool))
        for number, ids in enumerate(texts)
    ]
    shared = next(
        n for n in range(min(map(len, texts))) if n + 1 == min(map(len, texts)) or len({t[n] for t in texts}) > 1
    )
    [batch] = fill(share_beginning(questions), 10**6)
    roots = [s for s in batch if s.name is None]
    assert [len(root) for root in roots] == ([shared] if shared and len(texts) > 1 else [])
    whole = {s.name: [*(s.root.ids if s.root is not None else []), *s.ids] for s in batch if s.name is not None}
    assert list(whole.items()) == list(enumerate(texts))


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
    with pytest.raises(
        DselectError, match=r"of \d+ tokens does not fit into the memory of cpu: lower its `max_length`"
    ):
        list(forward.over(trees(), 10_000))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "qwen2", "deepseek_v3"])
def test_masks_of_long_sequences_are_made_block_by_block_with_equal_scores(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Forward(make(name))
    whole = scores(forward, 10_000)
    for cells in (1, 150, 700):  # one query at a time, and blocks that do not divide the lengths
        monkeypatch.setattr(attention, "_CELLS", cells)
        monkeypatch.setattr(attention, "_CAPPED_CELLS", cells)
        for at, again in scores(forward, 10_000).items():
            for kind, value in again.items():
                assert np.abs(value - whole[at][kind]).max() < 2e-5, (cells, at, kind)


PEAK = """
import sys
import numpy as np
import torch
from dselect_core.lm import attention
from dselect_core.lm.forward import Forward
from dselect_core.lm.packing import Sequence, Tree
from tests.core.test_families import PACK, TINY
from transformers import AutoConfig, AutoModelForCausalLM

def resident(field):
    [line] = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) / 1024

name, length = sys.argv[1], int(sys.argv[2])
sizes = TINY | PACK[name] | {"max_position_embeddings": length, "num_hidden_layers": 2}
if "sliding_window" in sizes:
    sizes["sliding_window"] = 256
forward = Forward(AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes)).eval())
ids = np.random.default_rng(0).integers(3, 290, length).astype(np.int32)

def over(ids):
    tree = Tree(Sequence("row", ids, np.arange(len(ids)) > 9, 10))
    [_] = forward.over([tree], 4096, want=frozenset({"difficulty", "embeddings", "activations"}))

over(ids[:64])  # what the first pass loads, whatever the length
open("/proc/self/clear_refs", "w").write("5")  # from here on the peak is of what follows
before = resident("VmRSS")
over(ids)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("name", ["mistral", "gemma2", "deepseek_v3"])
def test_peak_memory_does_not_grow_with_the_square_of_the_length(name: str) -> None:
    """One mask of all queries and keys took 5 bytes × length², capped scores of four heads 80 bytes × length²."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, name, "6144"],
        capture_output=True,
        text=True,
        timeout=300,
        # Each thread has buffers of its own, and glibc keeps what is freed: 75 to 360 MiB of the same work.
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150  # MiB; 75 at most, and 403, 1845 and 1458 before
