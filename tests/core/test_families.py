"""The architectures people use, tiny and random: packed, padded and one row in float64 give the same scores."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from dselect_core.errors import DselectError
from dselect_core.lm.forward import Forward, Signals
from dselect_core.lm.load import quiet_transformers
from dselect_core.lm.packing import Sequence, Tree

WANT = frozenset({"difficulty", "embeddings", "activations"})
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
# Windows are shorter than the sequences, caps near the logits: what is left out shows.
PACK: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 12},
    "gemma2": {
        "sliding_window": 12,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 1.0,
    },
    "gemma3_text": {"sliding_window": 12, "query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": {},
    "smollm3": {},
    "gpt2": GPT,
    "gpt_neox": {"rotary_pct": 0.5},
    "olmo": {},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "lfm2": {"layer_types": ["full_attention"] * 3},
}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = ROUTED | LATENT | {
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 2,
    "num_key_value_heads": 4,
}  # fmt: skip
# Mixtures of experts: layers without experts, shared experts, interleaved gates with biases, weights at the input.
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": ROUTED | {"num_local_experts": 4},
    "qwen2_moe": ROUTED | {"num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3_moe": ROUTED | {"num_experts": 4, "mlp_only_layers": [1]},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "olmoe": ROUTED | {"num_experts": 4},
    "granitemoe": ROUTED | {"num_local_experts": 4},
    "granitemoeshared": ROUTED | {"num_local_experts": 4, "shared_intermediate_size": 24},
    "cohere2_moe": ROUTED | {"num_experts": 4},
    "glm4_moe": ROUTED | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
}
PACK |= EXPERTS
# Biases by position, attention sinks, recurrence: these run padded, and say why.
PAD: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 3, "n_head": 4},
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_oss": ROUTED | {"num_local_experts": 4},
    "llama4_text": ROUTED | {"num_local_experts": 4, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2},
    "mamba": {},
}
EXPERTS |= {name: PAD[name] for name in ("gpt_oss", "llama4_text")}


def make(name: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet_transformers()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TINY | (PACK | PAD).get(name, {}))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    return model


def trees() -> list[Tree]:
    random = np.random.default_rng(0)

    def sequence(name: str, length: int, prompt: int | None = None) -> Sequence:
        ids = random.integers(3, 290, length).astype(np.int32)
        return Sequence(name, ids, np.arange(length) >= max(1, length // 2), prompt)

    return [
        Tree(sequence("a", 30, 15), (sequence("a1", 9), sequence("a2", 14))),
        Tree(sequence("b", 25, 12)),
        Tree(sequence("c", 7, 3), (sequence("c1", 40),)),
    ]


def scores(forward: Forward, budget: int, want: frozenset[str] = WANT) -> dict[str, dict[str, Any]]:
    """By sequence: its scores, and those of the pooled their states and neurons."""
    found: dict[str, dict[str, Any]] = {}
    for batch, signals in forward.over(trees(), budget, want=want):
        pooled = [s for s in batch if s.prompt is not None]
        for at, sequence in enumerate(batch):
            if sequence.name is None:
                continue
            assert sequence.name not in found, "scored twice"
            found[sequence.name] = token_scores(signals, at)
        for at, sequence in enumerate(pooled):
            assert signals.state is not None and signals.prompt_state is not None
            found[sequence.name] |= {"state": signals.state[at], "prompt_state": signals.prompt_state[at]}
            found[sequence.name] |= {f"neurons {n}": values[at] for n, values in signals.neurons.items()}
    return found


def token_scores(signals: Signals, at: int) -> dict[str, Any]:
    assert signals.loss is not None and signals.entropy is not None and signals.upd is not None
    return {"loss": signals.loss[at], "entropy": signals.entropy[at], "upd": signals.upd[at]}


def reference(model: torch.nn.Module, sequence: Sequence, root: Sequence | None) -> dict[str, Any]:
    """One row, unpadded, float64, attention as the model's authors wrote it."""
    before = 0 if root is None else len(root)
    ids = torch.from_numpy(np.concatenate([[] if root is None else root.ids, sequence.ids]).astype(np.int64))[None]
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    logits = out.logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    at = np.flatnonzero(sequence.scored) + before
    loss = -log_p[at - 1, ids[0, at]]
    entropy = -(log_p.exp() * log_p)[at - 1].sum(-1)
    upd = torch.sigmoid(loss) * (1 - entropy / np.log(logits.shape[-1])).clamp_min(0)
    found = {"loss": loss.mean(), "entropy": entropy.mean(), "upd": upd.mean()}
    if sequence.prompt is not None:
        states = out.hidden_states[-1][0]
        found |= {"state": states.mean(0), "prompt_state": states[: sequence.prompt].mean(0)}
    return {name: value.double().numpy() for name, value in found.items()}


@pytest.mark.parametrize("name", [*PACK, *PAD])
def test_every_family_gives_the_scores_of_one_unpadded_row_in_float64(name: str) -> None:
    forward = Forward(make(name))
    assert forward.packs == (name in PACK), forward.why_padded
    want = WANT - forward.cannot.keys()
    assert forward.cannot.keys() == ({"activations"} if name == "mamba" else set())
    found = scores(forward, 10_000, want)
    for budget in (1, 45):  # one tree a batch, and trees split over several
        for at, again in scores(forward, budget, want).items():
            for kind, value in again.items():
                assert np.abs(value - found[at][kind]).max() < 2e-5, (budget, at, kind)
    if name in PACK:
        forward.why_padded = "asked to"
        for at, again in scores(forward, 90, want).items():
            for kind, value in again.items():
                assert np.abs(value - found[at][kind]).max() < 2e-5, ("padded", at, kind)
    # Experts' products know no float64.
    model = forward.model if name in EXPERTS else forward.model.double()
    if name != "mamba":
        model.set_attn_implementation("eager")  # type: ignore[operator]
    for tree in trees():
        for sequence in (tree.root, *tree.children):
            expected = reference(model, sequence, None if sequence is tree.root else tree.root)
            for kind, value in expected.items():
                assert np.abs(value - found[sequence.name][kind]).max() < 1e-4, (sequence.name, kind)


class Received(TorchFunctionMode):
    """What the down projections of routed experts receive while the model's own code runs, whoever calls them."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.sums = {
            weight.untyped_storage().data_ptr(): torch.zeros(len(weight), set(weight.shape[1:]).difference({32}).pop())
            for name, weight in model.named_parameters()
            if name.endswith("experts.down_proj")
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("linear", "matmul", "__matmul__", "bmm"):
            values, weight = args[:2]
            sums = self.sums.get(weight.untyped_storage().data_ptr())
            if sums is not None and weight.dim() == 3:
                sums += values.abs().sum(1)
            elif sums is not None:
                sums[weight.storage_offset() // weight.numel()] += values.abs().sum(0)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", EXPERTS)
def test_the_neurons_of_experts_are_what_their_down_projections_receive(name: str) -> None:
    forward = Forward(make(name))
    found = scores(forward, 10_000)
    forward.model.set_experts_implementation("eager")  # type: ignore[operator]
    for tree in trees():
        assert tree.root.prompt is not None
        prompt = torch.from_numpy(tree.root.ids[: tree.root.prompt].astype(np.int64))[None]
        with torch.no_grad(), Received(forward.model) as received:
            forward.model(input_ids=prompt, use_cache=False)
        of_layers = [found[tree.root.name][f"neurons {n}"] for n in range(3)]  # every layer is there
        with_experts = [n for n, layer in enumerate(forward.layers) if layer.experts]
        assert len(received.sums) == len(with_experts) >= 1
        for number, sums in zip(with_experts, received.sums.values(), strict=True):
            expected = (sums / tree.root.prompt).flatten().numpy()
            assert expected.max() > 0
            assert np.abs(of_layers[number][-len(expected) :] - expected).max() < 1e-4


def test_shared_experts_and_layers_without_experts_count_too() -> None:
    forward = Forward(make("deepseek_v3"))
    [(_, signals)] = forward.over([trees()[0]], 10_000, want=frozenset({"activations"}))
    assert {n: values.shape[1] for n, values in signals.neurons.items()} == {0: 48, 1: 2 * 16 + 4 * 16, 2: 96}


def test_experts_whose_neurons_are_not_known_are_named_and_the_other_signals_are_given() -> None:
    forward = Forward(make("jetmoe"))
    assert "JetMoeModel" in forward.cannot["activations"] and "experts" in forward.cannot["activations"]
    assert np.isfinite(next(iter(forward.over(trees(), 10_000)))[1].loss).all()
    with pytest.raises(DselectError, match="JetMoeModel"):
        list(forward.over(trees(), 10_000, want=WANT))


def test_a_layer_without_known_neurons_is_never_passed_over() -> None:
    """One layer of three has an MLP of other names: none is measured, and the layer is named."""
    model = make("llama")
    mlp = model.model.layers[1].mlp  # type: ignore[union-attr, index]
    mlp.last, mlp.down_proj = mlp.down_proj, None
    mlp.forward = lambda x: mlp.last(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    assert "1 of its 3 layers are not known (layers 1)" in Forward(model).cannot["activations"]


def test_an_encoder_is_refused() -> None:
    with pytest.raises(DselectError, match="BertLMHeadModel is not causal"):
        Forward(make("bert"))


def test_bfloat16_runs_packed_and_stays_near_float32() -> None:
    exact = scores(Forward(make("llama")), 10_000)
    forward = Forward(make("llama").to(torch.bfloat16))
    assert forward.packs
    for name, found in scores(forward, 10_000).items():
        assert found["loss"] == pytest.approx(exact[name]["loss"], rel=0.02)
        assert found["loss"].dtype == np.float32
