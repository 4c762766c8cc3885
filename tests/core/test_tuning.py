"""Tuning: the loss falls, the same input gives the same weights, and what is kept loads as what was tuned."""

import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dselect_core.errors import DselectError
from dselect_core.lm import tuning_loss, tuning_trainer
from dselect_core.lm.forward import Forward
from dselect_core.lm.numeric_type import computes_bf16
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.lm.tuning import Example, Tuned, TuneSpec, tune
from dselect_core.lm.tuning_loss import summed_loss
from dselect_core.lm.tuning_steps import plan_steps
from tests.core.test_families import make
from tests.tiny import open_llama, save_llama

SPEC = TuneSpec(epochs=3, batch_tokens=256, learning_rate=3e-3)
LORA = TuneSpec(method="lora", lora_rank=8, epochs=3, batch_tokens=256, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed here: the bytes are the same for the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    other = tuned(folder, replace(spec, seed=1))
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


def by_hand(model: torch.nn.Module, batch: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the mean over scored tokens, a row at a time, by the model's own logits and torch alone."""
    losses = []
    for example in batch:
        ids = torch.from_numpy(example.ids.astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        scored = torch.from_numpy(example.scored)[1:]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1][scored], ids[1:][scored], reduction="none"))
    loss = torch.cat(losses).mean()
    loss.backward()
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradient


@pytest.mark.parametrize("packs", [True, False], ids=["flat", "padded"])
@pytest.mark.parametrize(
    "family",
    ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "granite", "phi", "mixtral", "deepseek_v3", "bloom"],
)
def test_the_gradient_is_that_of_one_row_at_a_time_and_prompts_are_not_learnt(family: str, packs: bool) -> None:
    """Grouped queries, windows, caps of attention and of logits, scaled and tied output layers, experts, narrow values;
    no flat batch for bloom."""
    forward = Forward(make(family))
    assert forward.packs is (family != "bloom")
    if not packs:
        forward.why_padded = "for this test"
    batch = [replace(example, ids=example.ids % 290 + 3) for example in examples(8)]
    expected_loss, expected = by_hand(forward.model, batch)
    loss = summed_loss(forward, batch, bf16=False) / sum(int(example.scored[1:].sum()) for example in batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    found = {name: p.grad for name, p in forward.model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    size = sum(float(g.norm() ** 2) for g in expected.values()) ** 0.5
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < 2e-4 * float(gradient.norm()) + 1e-5 * size, name


def test_a_batch_of_several_blocks_of_logits_has_the_gradient_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [replace(example, ids=example.ids % 290 + 3) for example in examples(8)]
    for family in ("llama", "gemma2"):  # a plain output layer, and one that caps its logits
        forward = Forward(make(family))
        _, expected = by_hand(forward.model, batch)
        monkeypatch.setattr(tuning_loss, "_CELLS", 300 * 7)
        (summed_loss(forward, batch, bf16=False) / sum(int(e.scored.sum()) for e in batch)).backward()
        for name, parameter in forward.model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5)


def test_every_epoch_passes_every_example_once_in_batches_within_the_budget() -> None:
    rows = examples()
    steps = plan_steps(rows, TuneSpec(epochs=2.5, batch_tokens=128, seed=3))
    assert all(len(step) == 1 or sum(len(e.ids) for e in step) <= 128 for step in steps)
    passed = [id(e) for step in steps for e in step]
    everyone = sorted(map(id, rows))
    assert sorted(passed[:40]) == everyone and sorted(passed[40:80]) == everyone and len(set(passed[80:])) == 20
    assert passed[:40] != passed[40:80] and len(passed) == 100
    assert len(plan_steps(rows, TuneSpec(max_steps=70, batch_tokens=128))) == 70


def test_a_long_example_has_a_step_of_its_own() -> None:
    steps = plan_steps(examples(), TuneSpec(epochs=1, batch_tokens=1))
    assert [len(step) for step in steps] == [1] * 40


def test_the_model_and_the_process_are_as_they_were_but_for_the_weights(tmp_path: Path, capfd: Any) -> None:
    model = open_llama(save_llama(tmp_path)).forward.model
    model.train()
    model.lm_head.weight.requires_grad_(False)
    names = list(weights(model))
    implementation, use_cache = model.config._attn_implementation, model.config.use_cache
    torch.manual_seed(5)
    np.random.seed(5)
    drawn = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for spec in (LORA, replace(LORA, bf16=True), SPEC):
            assert tune(model, examples(), spec).model is model
    assert not told and capfd.readouterr() == ("", "")
    assert torch.equal(torch.rand(3), drawn[0]) and np.array_equal(np.random.rand(3), drawn[1])
    assert model.training and not model.lm_head.weight.requires_grad and list(weights(model)) == names
    assert model.config._attn_implementation == implementation and model.config.use_cache == use_cache
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_16_bit_models_are_tuned_in_float32_and_come_back_in_16_bits(tmp_path: Path, method: Any) -> None:
    folder = save_llama(tmp_path)
    spec = replace(LORA if method == "lora" else SPEC, bf16=True)
    reference = tuned(folder, replace(spec, bf16=False))
    for dtype in ("float32", "bfloat16", "float16"):
        result = tune(open_llama(folder, dtype=dtype).forward.model, examples(), spec)
        assert {str(p.dtype) for p in result.model.parameters()} == {f"torch.{dtype}"}
        assert result.losses[-1] == pytest.approx(reference.losses[-1], abs=0.1)


def test_examples_without_a_scored_token_are_counted_and_move_nothing(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    unscored = Example(np.arange(5, dtype=np.int32), np.arange(5) == 0)  # the first token has no predecessor
    result = tune(open_llama(folder).forward.model, [unscored, *examples(), unscored], SPEC)
    assert result.skipped == 2
    assert equal(result.model, tuned(folder, SPEC).model)


def test_progress_counts_tokens_and_an_error_in_it_leaves_an_ordinary_model(tmp_path: Path) -> None:
    model = open_llama(save_llama(tmp_path)).forward.model
    before = {name: w.clone() for name, w in weights(model).items()}
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, reused: int = 0) -> None:
        told.append((done, total))
        if done > total / 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tune(model, examples(), LORA, progress=tell)
    total = 3 * sum(len(example.ids) for example in examples())
    assert {whole for _, whole in told} == {total} and [done for done, _ in told] == sorted({done for done, _ in told})
    assert all(torch.equal(before[name], w) for name, w in weights(model).items()) and not hasattr(model, "peft_config")


def test_a_learning_rate_that_breaks_the_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DselectError, match=r"the loss of step \d+ is (nan|inf)\. Lower `learning_rate`"):
        tuned(save_llama(tmp_path), replace(SPEC, learning_rate=1e20))


def test_what_does_not_fit_into_memory_runs_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_llama(tmp_path)
    whole = tuned(folder, SPEC)
    real, limit = tuning_trainer.summed_loss, 100

    def small(forward: Forward, batch: list[Example], bf16: bool) -> torch.Tensor:
        if sum(len(example.ids) for example in batch) > limit:
            raise torch.OutOfMemoryError("not enough")
        return real(forward, batch, bf16)

    monkeypatch.setattr(tuning_trainer, "summed_loss", small)
    np.testing.assert_allclose(tuned(folder, SPEC).losses, whole.losses, rtol=1e-4)
    limit = 20
    with pytest.raises(DselectError, match=r"an example of \d+ tokens does not fit into the memory of cpu"):
        tuned(folder, SPEC)


@pytest.mark.parametrize("spec", [SPEC, LORA], ids=["full", "lora"])
def test_weights_of_another_model_are_refused(tmp_path: Path, spec: TuneSpec) -> None:
    save_tuned(tuned(save_llama(tmp_path / "model"), spec), tmp_path / "kept")
    for other in ("gpt2", "qwen3"):
        with pytest.raises(DselectError, match="another model's"):
            load_tuned(make(other), tmp_path / "kept")


def test_what_is_kept_opens_in_peft_and_transformers(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = save_llama(tmp_path / "model")
    full, lora = tuned(folder, SPEC), tuned(folder, LORA)
    save_tuned(full, tmp_path / "full")
    save_tuned(lora, tmp_path / "lora")
    assert equal(AutoModelForCausalLM.from_pretrained(tmp_path / "full"), full.model)
    base: Any = AutoModelForCausalLM.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    assert equal(merged, lora.model)


TUNE = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dselect_core.lm import tuning_trainer
from dselect_core.lm.tuning import tune
from dselect_core.stop import request_stop
from tests.core.test_tuning import LORA, SPEC, examples
from tests.tiny import open_llama
tuning_trainer.SECONDS_BETWEEN_CHECKPOINTS = 0.0
model, checkpoints, method, end = sys.argv[1:]
steps = 0
def tell(done, total, reused=0):
    global steps
    steps += 1
    if steps == 7 and end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if steps == 7 and end == "stop":
        request_stop()
tune(open_llama(Path(model)).forward.model, examples(), LORA if method == "lora" else SPEC, Path(checkpoints), tell)
"""


@pytest.mark.walk(2)
@pytest.mark.parametrize("end", ["kill", "stop"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_was_killed_or_stopped_goes_on_to_the_same_weights(tmp_path: Path, method: str, end: str) -> None:
    folder, checkpoints, spec = save_llama(tmp_path / "model"), tmp_path / "run", LORA if method == "lora" else SPEC
    unbroken = tuned(folder, spec)
    command = [sys.executable, "-c", TUNE, str(folder), str(checkpoints), method, end]
    process = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL if end == "kill" else "Stopped" in process.stderr, process.stderr
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert newest.name == ("checkpoint-6" if end == "kill" else "checkpoint-7")
    # What a kill leaves that came in the middle of a checkpoint.
    (checkpoints / "checkpoint-9").mkdir()
    (checkpoints / "checkpoint-9" / "trainer_state.json").write_text('{"global_st')
    told: list[int] = []
    model = open_llama(folder).forward.model
    went_on = tune(model, examples(), spec, checkpoints, lambda done, total, reused=0: told.append(done))
    assert len(told) == unbroken.steps - int(newest.name[11:])
    assert equal(went_on.model, unbroken.model)
    assert went_on.losses == unbroken.losses and went_on.tokens == unbroken.tokens
    # Another run does not go on from there.
    other = replace(spec, seed=8)
    assert equal(
        tune(open_llama(folder).forward.model, examples(), other, checkpoints).model, tuned(folder, other).model
    )


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads x86's flags")
def test_auto_precision_takes_bf16_only_where_the_cpu_has_the_instructions() -> None:
    """oneDNN says yes of every CPU with AVX-512, and converts: five times as long as float32."""
    flags = Path("/proc/cpuinfo").read_text().split()
    assert computes_bf16("cpu") == any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))
