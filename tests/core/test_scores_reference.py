"""Scores against references written here in float64, token by token, straight from the formulas."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dselect_core.corpus.sample import chat_messages
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import padded_batches
from dselect_core.neighbors.nearest import nearest
from dselect_core.scores import miwv
from dselect_core.scores.forward_scores import forward_kinds
from dselect_core.settings.settings import Settings
from tests.tiny import conversation, open_llama, samples_frame, save_llama, score

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
KINDS = forward_kinds(SETTINGS)
CONVERSATIONS = [
    conversation("What is 2 + 2?", "4"),
    conversation("Name a river.", "The Rhine, from the Alps to the sea.", system="Be brief."),
    conversation("Hi", "Hello!", "Sort: b, a", "a, b", "Thanks", "You are welcome, any time."),
    conversation("Grüße 🙂", "東京 and Köln\n\n  indented"),
    conversation("Write a long answer. " * 5, "word " * 40 + "end."),
    conversation("Same prompt", "one answer"),
    conversation("Same prompt", "another answer, which is longer"),
]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("llama")))


def reference(lm: LanguageModel, ids: np.ndarray, response: np.ndarray, beta: float = 1.0) -> dict[str, float]:
    """D3's per-token formulas, one sequence, float64, plain Python sums."""
    model = lm.forward.model.double()
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0]
    finally:
        model.float()
    vocabulary = logits.shape[-1]
    losses, entropies, upds = [], [], []
    for t in np.flatnonzero(response):
        z = [float(v) for v in logits[t - 1]]
        top = max(z)
        total = math.fsum(math.exp(v - top) for v in z)
        p = [math.exp(v - top) / total for v in z]
        loss = -math.log(p[int(ids[t])])
        entropy = -math.fsum(q * math.log(q) for q in p if q > 0)
        losses.append(loss)
        entropies.append(entropy)
        upds.append(1 / (1 + math.exp(-loss)) * max(0.0, 1 - entropy / math.log(vocabulary) ** beta))
    n = len(losses)
    return {"loss": math.fsum(losses) / n, "entropy": math.fsum(entropies) / n, "upd": math.fsum(upds) / n}


@pytest.mark.parametrize("beta", [1.0, 0.95, 2.0])
def test_upd_loss_and_entropy_agree_with_the_formula_to_1e_5(lm: LanguageModel, beta: float) -> None:
    samples = samples_frame(CONVERSATIONS)
    settings = SETTINGS.model_copy(update={"difficulty": SETTINGS.difficulty.model_copy(update={"beta": beta})})
    scored = score(lm, samples, frozenset({"difficulty"}), settings)["difficulty"]
    for row, messages in zip(
        scored.iter_rows(named=True), map(chat_messages, samples["messages"].to_list()), strict=True
    ):
        rendered = lm.renderer.render(messages)
        expected = reference(lm, rendered.ids, rendered.response, beta)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-5), (name, messages)
        assert row["response_tokens"] == int(rendered.response.sum())
    assert scored["upd"].n_unique() == scored.height


def test_miwv_agrees_with_two_reference_passes_to_1e_5(lm: LanguageModel) -> None:
    samples = samples_frame(CONVERSATIONS)
    scored = score(lm, samples, KINDS, SETTINGS)
    vectors = scored["prompts"]
    pairs = nearest(vectors["sample_id"], vectors["prompt_embedding"].to_numpy())
    zero = scored["difficulty"].select("sample_id", zero_shot_loss="loss")
    values = pl.concat(list(miwv.compute(lm, samples, pairs.join(zero, on="sample_id", maintain_order="left"))))
    rendered = {i: lm.renderer.render(chat_messages(m)) for i, m in samples.select("sample_id", "messages").iter_rows()}
    assert values["miwv"].null_count() == 0
    for row in values.iter_rows(named=True):
        target, shot = rendered[row["sample_id"]], rendered[row["shot_id"]]
        built = lm.renderer.one_shot(target, shot)
        assert built is not None
        ids, response = built.ids, built.scored
        # The same response tokens in both passes, and the shot's own zero-shot ids in front, literally.
        assert ids[response].tolist() == target.ids[target.response].tolist()
        assert ids[: len(shot.ids)].tolist() == shot.ids.tolist()
        expected = reference(lm, ids, response)["loss"] - reference(lm, target.ids, target.response)["loss"]
        assert row["miwv"] == pytest.approx(expected, abs=1e-5)
        assert row["miwv"] == pytest.approx(row["one_shot_loss"] - row["zero_shot_loss"], abs=1e-6)


def test_the_shot_is_the_nearest_other_prompt_lowest_id_at_a_tie(lm: LanguageModel) -> None:
    samples = samples_frame([*CONVERSATIONS, conversation("Same prompt", "a third answer")])
    vectors = score(lm, samples, frozenset({"prompts"}), SETTINGS)["prompts"]
    h = vectors["prompt_embedding"].to_numpy().astype(np.float64)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    ids = vectors["sample_id"].to_list()
    found = nearest(vectors["sample_id"], vectors["prompt_embedding"].to_numpy())
    for i, row in enumerate(found.iter_rows(named=True)):
        cosine = [(-round(float(h[i] @ h[j]), 5), ids[j]) for j in range(len(ids)) if j != i]
        assert (row["shot_id"], row["sample_id"]) == (min(cosine)[1], ids[i])


def test_batching_never_changes_a_score(lm: LanguageModel) -> None:
    samples = samples_frame(CONVERSATIONS)
    by_budget = []
    for budget in (1, 300, 100_000):
        lm.spec = lm.spec.model_copy(update={"batch_tokens": budget})
        by_budget.append(score(lm, samples, KINDS, SETTINGS))
    one_by_one, *others = by_budget
    for other in others:
        for column in ("upd", "loss", "entropy"):
            assert np.abs((other["difficulty"][column] - one_by_one["difficulty"][column]).to_numpy()).max() < 1e-5
        for kind, column in (("embeddings", "embedding"), ("prompts", "prompt_embedding")):
            a, b = (s[kind][column].to_numpy() for s in (other, one_by_one))
            assert np.abs(a - b).max() < 1e-4
        assert other["activations"].equals(one_by_one["activations"])


def test_embeddings_are_means_of_the_last_layer_over_prompt_and_all_tokens(lm: LanguageModel) -> None:
    samples = samples_frame(CONVERSATIONS)
    scored = score(lm, samples, frozenset({"embeddings", "prompts"}), SETTINGS)
    both = scored["embeddings"].join(scored["prompts"], on="sample_id", maintain_order="left")
    for row, messages in zip(
        both.iter_rows(named=True), map(chat_messages, samples["messages"].to_list()), strict=True
    ):
        r = lm.renderer.render(messages)
        with torch.no_grad():
            out = lm.forward.model(input_ids=torch.tensor(r.ids[None].astype(np.int64)), output_hidden_states=True)
        states = out.hidden_states[-1][0].double().numpy()
        np.testing.assert_allclose(row["embedding"], states.mean(0), atol=1e-4)
        np.testing.assert_allclose(row["prompt_embedding"], states[: r.first_response].mean(0), atol=1e-4)


@pytest.mark.parametrize("tokens", ["prompt", "all"])
def test_active_neurons_are_the_top_of_each_layer_recounted_from_the_gate_and_up_projections(
    lm: LanguageModel, tokens: str
) -> None:
    samples = samples_frame(CONVERSATIONS)
    spec = SETTINGS.activations.model_copy(update={"tokens": tokens, "top_share": 0.05})
    settings = SETTINGS.model_copy(update={"activations": spec})
    scored = score(lm, samples, frozenset({"activations"}), settings)["activations"]
    layers = lm.forward.model.model.layers  # type: ignore[union-attr]
    for row, messages in zip(
        scored.iter_rows(named=True), map(chat_messages, samples["messages"].to_list()), strict=True
    ):
        r = lm.renderer.render(messages)
        over = r.first_response if tokens == "prompt" else len(r.ids)
        expected = []
        inputs: list[torch.Tensor] = []
        hooks = [layer.mlp.register_forward_pre_hook(lambda _m, a, to=inputs: to.append(a[0])) for layer in layers]  # type: ignore
        with torch.no_grad():
            lm.forward.model(input_ids=torch.tensor(r.ids[None].astype(np.int64)))
        for hook in hooks:
            hook.remove()
        for number, (layer, x) in enumerate(zip(layers, inputs, strict=True)):  # type: ignore[arg-type]
            with torch.no_grad():
                value = torch.nn.functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
            mean = value[0, :over].abs().mean(0).numpy()
            expected += [number * 100 + int(i) for i in np.argsort(-mean, kind="stable")[:5]]
        assert sorted(row["neurons"]) == sorted(expected)


def test_batches_hold_the_budget_and_every_row_once() -> None:
    lengths = [5, 1, 9, 9, 3, 20, 7]
    made = list(padded_batches(lengths, 18))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 18 for b in made)
    assert made[0] == [5]  # longer than the budget: by itself


def test_a_model_that_scales_its_logits_is_scored_by_its_own_logits(lm: LanguageModel, tmp_path: Path) -> None:
    """Gemma 2 caps its logits after the output layer; the plain head would score another model."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from tests.tiny import tokenizer

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, initializer_range=0.5,
        final_logit_softcapping=3.0,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    capped = open_llama(tmp_path)
    assert not capped.forward.plain_head
    samples = samples_frame(CONVERSATIONS[:3])
    scored = score(capped, samples, KINDS, SETTINGS)["difficulty"]
    for row, messages in zip(
        scored.iter_rows(named=True), map(chat_messages, samples["messages"].to_list()), strict=True
    ):
        r = capped.renderer.render(messages)
        assert row["upd"] == pytest.approx(reference(capped, r.ids, r.response)["upd"], abs=1e-5)


def test_nearest_of_a_pool_of_one_or_without_vectors_is_null() -> None:
    alone = nearest(pl.Series(["a"]), np.ones((1, 4), np.float32))
    assert alone["shot_id"].to_list() == [None]
    broken = nearest(pl.Series(["a", "b", "c"]), np.array([[1, 0], [np.nan, 0], [1, 1]], np.float32))
    assert broken["shot_id"].to_list() == ["c", None, "a"]
