"""One forward pass → many signals: loss, entropy and UPD per token; pooled states; active neurons.

Right-padded batches without an attention mask: in a causal model a position never sees what comes
after it, so padding on the right cannot change a real token, and the fast causal kernel applies.
The output layer runs only at response positions, in blocks, with float32 softmax; there is never a
[batch, length, vocabulary] tensor. Packing and prefix sharing are left out on purpose.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dselect_core.errors import DselectError

# Positions whose logits are held at once. 512 × 152k float32 is 311 MB, the largest vocabularies in use.
HEAD_BLOCK = 512


@dataclass
class Signals:
    """Per sequence of the batch, on the CPU, float32.

    loss, entropy, upd: mean over response tokens (nats, nats, 1), NaN where no token is scored;
    prompt_state, state: [B, d] mean of the last layer over the prompt, and over all tokens;
    neurons: {layer: [B, m]} mean |value entering the MLP's down projection| over the chosen tokens.
    """

    loss: np.ndarray | None = None
    entropy: np.ndarray | None = None
    upd: np.ndarray | None = None
    prompt_state: np.ndarray | None = None
    state: np.ndarray | None = None
    neurons: dict[int, np.ndarray] = field(default_factory=dict)


def upd_per_token(loss: Tensor, entropy: Tensor, vocabulary: int, beta: float) -> Tensor:
    """UPD_t = sigmoid(L_t) · max(0, 1 - H_t / (ln V)^β)   (D3, arXiv 2503.11441; [second] source)."""
    certainty = (1 - entropy / math.log(vocabulary) ** beta).clamp_min(0)
    upd: Tensor = torch.sigmoid(loss) * certainty
    return upd


class Forward:
    """Runs batches through one causal LM. Stateless between calls but for the hooks while one runs.

    tokens: those pushed through it since it was opened, padding left out.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.device = next(model.parameters()).device
        self.body: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model  # type: ignore[operator, assignment]
        self.head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        if self.head is None:
            raise DselectError(f"{type(model).__name__} has no output layer; a causal language model is needed")
        self.vocabulary = int(self.head.weight.shape[0])
        self.plain_head = self._head_is_plain()
        self.tokens = 0

    @torch.inference_mode()
    def _head_is_plain(self) -> bool:
        """Whether logits are head(last state), or the model scales or caps them on the way (Gemma 2, Cohere)."""
        ids = torch.arange(1, 9, device=self.device)[None]
        whole = self.model(input_ids=ids, use_cache=False).logits
        return torch.allclose(self.head(self._states(ids)), whole, atol=1e-4, rtol=1e-3)

    def _states(self, ids: Tensor) -> Tensor:
        states: Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states

    @torch.inference_mode()
    def run(
        self,
        ids: list[np.ndarray],
        response: list[np.ndarray],
        prompt_lengths: list[int] | None = None,
        *,
        want: frozenset[str] = frozenset({"difficulty"}),
        beta: float = 1.0,
        neuron_tokens: str = "prompt",
        neuron_layers: list[int] | None = None,
    ) -> Signals:
        """Signals of one batch. `want` ⊆ {difficulty, embeddings, activations}.

        ids: B arrays of token ids; response: B masks of the scored tokens; prompt_lengths: B indices of
        the first response token (needed by embeddings and activations).
        """
        longest = max(len(i) for i in ids)
        self.tokens += sum(len(i) for i in ids)
        tokens = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        lengths = torch.tensor([len(i) for i in ids])
        tokens = tokens.to(self.device)
        places = torch.arange(longest)[None]
        whole = (places < lengths[:, None]).to(self.device)
        prompt = (places < torch.tensor(prompt_lengths or [0] * len(ids))[:, None]).to(self.device)

        signals = Signals()
        hooks: list[Any] = []
        if "activations" in want:
            over = prompt if neuron_tokens == "prompt" else whole
            hooks = self._hook_neurons(signals, over, neuron_layers)
        try:
            states: Tensor | None
            if self.plain_head or "difficulty" not in want:
                states, logits = self._states(tokens), None
            else:
                # Twice through the body where states are wanted too: the price of an unusual head.
                states = self._states(tokens) if "embeddings" in want else None
                logits = self.model(input_ids=tokens, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        if "embeddings" in want:
            assert states is not None
            signals.state = _pooled(states, whole)
            signals.prompt_state = _pooled(states, prompt)
        if "difficulty" in want:
            self._token_scores(signals, tokens, response, states, logits, beta)
        return signals

    def _token_scores(
        self,
        signals: Signals,
        tokens: Tensor,
        response: list[np.ndarray],
        states: Tensor | None,
        logits: Tensor | None,
        beta: float,
    ) -> None:
        rows = torch.from_numpy(np.concatenate([np.full(int(m.sum()), r) for r, m in enumerate(response)])).long()
        at = torch.from_numpy(np.concatenate([np.flatnonzero(m) for m in response])).long()
        n, count = len(response), len(rows)
        loss, entropy = torch.empty(count), torch.empty(count)
        for start in range(0, count, HEAD_BLOCK):
            r, t = rows[start : start + HEAD_BLOCK], at[start : start + HEAD_BLOCK]
            z = self.head(states[r, t - 1]) if logits is None else logits[r, t - 1]  # type: ignore[index]
            z = z.float()
            lse = torch.logsumexp(z, dim=-1)
            loss[start : start + HEAD_BLOCK] = (lse - z.gather(1, tokens[r, t][:, None])[:, 0]).cpu()
            # H = lse - Σ p·z: one exponential, no second log-softmax.
            entropy[start : start + HEAD_BLOCK] = (lse - (torch.exp(z - lse[:, None]) * z).sum(-1)).cpu()
        entropy.clamp_min_(0)
        upd = upd_per_token(loss, entropy, self.vocabulary, beta)
        per_row = torch.zeros(n, dtype=torch.float64).index_add_(0, rows, torch.ones(count, dtype=torch.float64))
        means = [
            (torch.zeros(n, dtype=torch.float64).index_add_(0, rows, v.double()) / per_row).float().numpy()
            for v in (loss, entropy, upd)
        ]
        signals.loss, signals.entropy, signals.upd = means

    def _hook_neurons(self, signals: Signals, over: Tensor, layers: list[int] | None) -> list[Any]:
        weight = over.float() / over.sum(1, keepdim=True).clamp_min(1)

        def hook(layer: int) -> Any:
            def capture(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                # [B, T, m] · [B, T] → [B, m]; the mean gives length no advantage.
                signals.neurons[layer] = torch.einsum("btm,bt->bm", args[0].float().abs(), weight).cpu().numpy()

            return capture

        found = down_projections(self.body)
        chosen = range(len(found)) if layers is None else layers
        if any(layer >= len(found) for layer in chosen):
            raise DselectError(f"activations.layers names a layer above {len(found) - 1}, the model's last")
        return [found[layer].register_forward_pre_hook(hook(layer)) for layer in chosen]


# The MLP's last linear layer by the names the families use: Llama/Qwen/Mistral/Gemma, GPT-2, GPT-NeoX, Phi/OPT.
_DOWN = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "fc2")


def down_projections(body: nn.Module) -> list[nn.Module]:
    """The down projection of each layer's MLP, in layer order. Raises DselectError when none is found."""
    for suffix in _DOWN:
        found = [module for name, module in body.named_modules() if name.endswith("." + suffix)]
        if found:
            return found
    raise DselectError(
        f"no MLP down projection found in {type(body).__name__}; activations need one of {', '.join(_DOWN)}"
    )


def _pooled(states: Tensor, mask: Tensor) -> np.ndarray:
    weight = mask.float() / mask.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("btd,bt->bd", states.float(), weight).cpu().numpy()
