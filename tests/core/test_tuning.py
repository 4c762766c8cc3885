"""Tuning: the loss falls, the same input gives the same weights, and what is kept loads as what was tuned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dselect_core.errors import DselectError
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.lm.tuning import Example, Tuned, TuneSpec, tune
from tests.tiny import open_llama, save_llama

SPEC = TuneSpec(epochs=3, batch_tokens=256, learning_rate=3e-3)
LORA = TuneSpec(method="lora", lora_rank=8, epochs=3, batch_tokens=256, learning_rate=1e-2)


def examples(count: int = 40) -> list[Example]:
    draw = np.random.default_rng(0)
    lengths = draw.integers(5, 60, count)
    return [Example((np.arange(n) * 7 % 300 + n % 9).astype(np.int32), np.arange(n) > n // 3) for n in lengths]


def tuned(folder: Path, spec: TuneSpec) -> Tuned:
    return tune(open_llama(folder).forward.model, examples(), spec)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("spec", [SPEC, LORA], ids=["full", "lora"])
def test_the_loss_falls_and_the_weights_follow_from_input_and_seed(tmp_path: Path, spec: TuneSpec) -> None:
    folder = save_llama(tmp_path / "model")
    one, again = tuned(folder, spec), tuned(folder, spec)
    assert one.losses[-1] < one.losses[0] - 1
    assert one.losses == again.losses and equal(one.model, again.model)
    other = tuned(folder, TuneSpec(**{**vars(spec), "seed": 1}))
    assert not equal(one.model, other.model)


@pytest.mark.parametrize("spec", [SPEC, LORA], ids=["full", "lora"])
def test_what_is_kept_loads_as_what_was_tuned(tmp_path: Path, spec: TuneSpec) -> None:
    folder = save_llama(tmp_path / "model")
    one = tuned(folder, spec)
    save_tuned(one, tmp_path / "kept")
    loaded = load_tuned(open_llama(folder).forward.model, tmp_path / "kept")
    assert equal(one.model, loaded)


def test_nothing_to_tune_on_says_so(tmp_path: Path) -> None:
    model = open_llama(save_llama(tmp_path)).forward.model
    unscored = Example(np.arange(5, dtype=np.int32), np.zeros(5, dtype=bool))
    with pytest.raises(DselectError, match="none of 1 examples has a scored token"):
        tune(model, [unscored], SPEC)
    with pytest.raises(DselectError, match="none of 0 examples"):
        tune(model, [], SPEC)
