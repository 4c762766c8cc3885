"""One forward pass → many signals: loss, entropy and UPD per token; pooled states; active neurons.

Batches run flat, without padding, and a prefix shared in the batch runs once (packing.py, attention.py). A probe run
flat and padded decides whether the model's attention can do that. Where the two differ (attention with biases by
position, recurrent layers), batches are padded and sorted by length, with equal results. The output layer runs only at
response positions, in blocks (loss.py).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dselect_core.errors import DselectError
from dselect_core.lm.attention import CannotPackError, packed
from dselect_core.lm.loss import OwnHead, loss_and_entropy, loss_and_entropy_of
from dselect_core.lm.neurons import Layer, NeuronRecorder, neuron_layers
from dselect_core.lm.numeric_type import is_mixed, noise
from dselect_core.lm.packing import Layout, Sequence, Tree, fill, flat, padded, padded_batches

# Trees that are sorted by length at a time where batches are padded: this bounds memory.
_SORTED_TREES = 4096


@dataclass
class Signals:
    """The results of one batch, on the CPU, float32.

    loss, entropy, upd: [sequences], mean over scored tokens (nats, nats, 1), NaN where no token is scored.
    prompt_state, state: [pooled, d] mean of the last layer over the prompt, and over all tokens; weighted_state: the
    latter with the i-th token weighted by i; neurons: {layer: [pooled, m]} mean |value entering the MLP's down
    projection| over the chosen tokens. pooled: the sequences with a `prompt`, in order. next_token: [sequences, tokens
    asked for], the log-probability of each behind the sequence.
    """

    loss: np.ndarray | None = None
    entropy: np.ndarray | None = None
    upd: np.ndarray | None = None
    prompt_state: np.ndarray | None = None
    state: np.ndarray | None = None
    weighted_state: np.ndarray | None = None
    neurons: dict[int, np.ndarray] = field(default_factory=dict)
    next_token: np.ndarray | None = None


def upd_per_token(loss: Tensor, entropy: Tensor, vocabulary: int, beta: float) -> Tensor:
    """UPD_t = sigmoid(L_t) · max(0, 1 - H_t / (ln V)^β)   (D3, arXiv 2503.11441; [second] source)."""
    certainty = (1 - entropy / math.log(vocabulary) ** beta).clamp_min(0)
    upd: Tensor = torch.sigmoid(loss) * certainty
    return upd


class Forward:
    """Runs batches through one causal LM. Between calls it keeps only counts.

    tokens: number of tokens run since it was opened, without padding; packs: whether batches run flat; why_padded: the
    reason if they do not; memory_budget: tokens of a batch that fit into memory, None until a batch did not fit;
    cannot: {signal: why this model does not give it}; layers: where its neurons are.

    A few tokens are run when it is opened, so that what this model cannot do shows before any row is scored. Raises
    DselectError for a model that is not causal or has no output layer, and whatever the model's own code raises.
    """

    def __init__(self, model: Any):
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        self.body = _decoder(model)
        self.head: Any = model.get_output_embeddings()
        if self.head is None:
            raise DselectError(f"{type(model).__name__} has no output layer; a causal language model is needed")
        self.vocabulary = int(self.head.weight.shape[0])
        self.products = torch.bfloat16 if is_mixed(model) else None  # of the output layer
        self.noise = noise(model)
        self.tokens = 0
        self.memory_budget: int | None = None
        self.cannot: dict[str, str] = {}
        self.layers: list[Layer] = []
        self._check_causal()
        self.plain_head = self._head_is_plain()
        self.why_padded = self._cannot_pack()
        probe = Sequence("probe", np.arange(1, 7, dtype=np.int32), np.arange(6) > 2, 3)
        self.run([probe], want=frozenset({"difficulty", "embeddings"}))
        try:
            self.layers = neuron_layers(self.body)
            self.run([probe], want=frozenset({"activations"}))
        except DselectError as error:
            self.cannot["activations"] = str(error)
        self.tokens = 0

    @property
    def packs(self) -> bool:
        """Whether batches run flat, without padding."""
        return self.why_padded is None

    def over(
        self, trees: Iterable[Tree], budget: int, *, want: frozenset[str] = frozenset({"difficulty"}), **how: Any
    ) -> Iterator[tuple[list[Sequence], Signals]]:
        """Sequences and their signals, batch by batch of at most `budget` tokens.

        A batch that does not fit into memory is halved; otherwise the batches depend on the trees alone. A sequence
        without a name is only a root for others. how: as in `run`. Raises DselectError when a single sequence does not
        fit into memory.
        """
        for batch in self._batches(trees, budget):
            fits = self.memory_budget is None or _tokens(batch) <= self.memory_budget
            for part in [batch] if fits else self._batches(_trees(batch), self.memory_budget or budget):
                yield from self._halving(part, want, how)

    def _halving(
        self, batch: list[Sequence], want: frozenset[str], how: dict[str, Any]
    ) -> Iterator[tuple[list[Sequence], Signals]]:
        try:
            signals = self.run(batch, want=want, **how)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            signals = None
        if signals is not None:
            yield batch, signals
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.memory_budget = _tokens(batch) // 2
        parts = list(self._batches(_trees(batch), self.memory_budget))
        if len(parts) < 2:
            raise DselectError(
                f"a sequence of {max(s.total_tokens for s in batch)} tokens does not fit into the memory of "
                f"{self.device}: "
                "lower its `max_length`, or choose a smaller model or another `device`"
            )
        for part in parts:
            yield from self._halving(part, want, how)

    def _batches(self, trees: Iterable[Tree], budget: int) -> Iterator[list[Sequence]]:
        if self.packs:
            yield from fill(trees, budget)
            return
        remaining = iter(trees)
        while shard := list(islice(remaining, _SORTED_TREES)):
            rows = [s for batch in fill(shard, budget) for s in batch if s.name is not None]
            for numbers in padded_batches([s.total_tokens for s in rows], budget):
                yield [rows[number] for number in numbers]

    @torch.inference_mode()
    def run(
        self,
        sequences: list[Sequence],
        *,
        want: frozenset[str] = frozenset({"difficulty"}),
        beta: float = 1.0,
        neuron_tokens: str = "prompt",
        neuron_layers: list[int] | None = None,
        next_tokens: tuple[int, ...] = (),
    ) -> Signals:
        """Signals of one batch. `want` ⊆ {difficulty, embeddings, weighted_embeddings, activations, next_token}.

        Roots precede their continuations.
        beta: UPD's exponent; neuron_tokens: `prompt` or `all`; neuron_layers: all by default; next_tokens: ids of the
        tokens whose probability behind each sequence is wanted. Raises DselectError when a signal is wanted that this
        model does not give.
        """
        for signal in sorted(want & self.cannot.keys()):
            raise DselectError(self.cannot[signal])
        layout, longest = (flat(sequences), None) if self.packs else padded(sequences)
        self.tokens += sum(len(s) if longest is None else s.total_tokens for s in sequences)
        signals = Signals()
        recorder = None
        pooled = [
            (*span, span[0] + s.prompt) for s, span in zip(sequences, layout.spans, strict=True) if s.prompt is not None
        ]
        if "activations" in want and pooled:
            over = [(start, mid if neuron_tokens == "prompt" else end) for start, end, mid in pooled]
            recorder = NeuronRecorder(self.layers, over, neuron_layers)
        try:
            states = self.packed_states(layout)[0] if longest is None else self.padded_states(layout, longest)
        finally:
            if recorder is not None:
                recorder.detach()
        if recorder is not None:
            signals.neurons = recorder.values()
        if "embeddings" in want and pooled:
            signals.state = _means(states, [(start, end) for start, end, _ in pooled])
            signals.prompt_state = _means(states, [(start, mid) for start, _, mid in pooled])
        if "weighted_embeddings" in want and pooled:
            signals.weighted_state = _weighted_means(states, [(start, end) for start, end, _ in pooled])
        if "difficulty" in want:
            self._token_scores(signals, layout, states, beta)
        if "next_token" in want:
            signals.next_token = self._next_token(layout, states, next_tokens)
        return signals

    def packed_states(self, layout: Layout) -> tuple[Tensor, set[int | None]]:
        """Last states of a flat batch, [tokens, d], and the sliding windows of the layers."""
        with packed(self.body, layout) as windows:
            states = self.body(
                input_ids=torch.from_numpy(layout.ids)[None].to(self.device),
                position_ids=torch.from_numpy(layout.positions)[None].to(self.device),
                use_cache=False,
            ).last_hidden_state[0]
        return states, windows

    def padded_states(self, layout: Layout, longest: int) -> Tensor:
        """Last states of a batch from `packing.padded`, [rows × longest, d]."""
        ids = torch.from_numpy(layout.ids).reshape(-1, longest).to(self.device)
        states: Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return states.flatten(0, 1)

    def _token_scores(self, signals: Signals, layout: Layout, states: Tensor, beta: float) -> None:
        predecessor, target, owner = layout.scored()
        head_device = self.head.weight.device
        chosen = states[torch.from_numpy(predecessor).to(states.device)].to(head_device)
        targets = torch.from_numpy(target).to(head_device)
        if self.plain_head:
            assert isinstance(self.head, nn.Linear)
            loss, entropy = loss_and_entropy(chosen, targets, self.head, products=self.products)
        else:
            loss, entropy = loss_and_entropy_of(OwnHead(self.model, self.body), chosen, targets, self.vocabulary)
        loss, entropy = loss.cpu(), entropy.clamp_min(0).cpu()
        upd = upd_per_token(loss, entropy, self.vocabulary, beta)
        count = np.bincount(owner, minlength=len(layout.sequences))
        with np.errstate(invalid="ignore"):
            signals.loss, signals.entropy, signals.upd = (
                (np.bincount(owner, values.double().numpy(), len(count)) / count).astype(np.float32)
                for values in (loss, entropy, upd)
            )

    def _next_token(self, layout: Layout, states: Tensor, tokens: tuple[int, ...]) -> np.ndarray:
        """Float32 [sequences, tokens]: log-softmax, in float32, of the logits behind each sequence's last token."""
        last = states[torch.tensor([end - 1 for _, end in layout.spans], device=states.device)]
        last = last.to(self.head.weight.device)
        logits = self.head(last) if self.plain_head else OwnHead(self.model, self.body)(last)
        values: np.ndarray = torch.log_softmax(logits.float(), dim=1)[:, list(tokens)].cpu().numpy()
        return values

    @torch.inference_mode()
    def _check_causal(self) -> None:
        """Raises DselectError when tokens see what follows: an encoder's losses are no difficulty."""
        ids = torch.arange(1, 13, device=self.device).repeat(2, 1)
        ids[1, -1] = 13
        one, other = self.body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].double()
        if (one - other).norm() > self.noise * one.norm():
            raise DselectError(
                f"{type(self.model).__name__} is not causal: its tokens see the tokens that follow (an encoder?). "
                "A causal language model is needed."
            )

    @torch.inference_mode()
    def _head_is_plain(self) -> bool:
        """Whether logits are head(last state): false where the model scales or caps them (Gemma 2, Cohere)."""
        if type(self.head) is not nn.Linear:
            return False
        ids = torch.arange(1, 9, device=self.device)[None]
        states = self.body(input_ids=ids, use_cache=False).last_hidden_state
        if self.head.in_features != states.shape[-1]:
            return False
        whole = self.model(input_ids=ids, use_cache=False).logits
        return torch.allclose(self.head(states.to(self.head.weight.device)), whole, atol=1e-4, rtol=1e-3)

    @torch.inference_mode()
    def _cannot_pack(self) -> str | None:
        """None if a flat batch with a shared root gives the same states as padded rows; else the reason why not."""
        config = self.body.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if not kinds <= {"full_attention", "sliding_attention"} or getattr(config, "attention_chunk_size", None):
            return f"layers of {', '.join(sorted(kinds))}"
        top = min(self.vocabulary - 1, 250)

        def sequence(first: int, length: int, root: Sequence | None = None) -> Sequence:
            ids = (np.arange(first, first + length) * 7 % top + 1).astype(np.int32)
            return Sequence("probe", ids, np.zeros(length, dtype=bool), root=root)

        root = sequence(1, 9)
        probe = [sequence(40, 12), root, sequence(11, 5, root), sequence(23, 7, root), sequence(90, 3)]
        try:
            packed_states, windows = self.packed_states(layout := flat(probe))
        except (CannotPackError, TypeError, RuntimeError, ValueError, IndexError, NotImplementedError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if "sliding_attention" in kinds and not any(windows):
            return "it does not pass its sliding windows to the attention function"
        row_layout, longest = padded(probe)
        padded_states = self.padded_states(row_layout, longest)
        for (start, end), (row, row_end) in zip(layout.spans, row_layout.spans, strict=True):
            a, b = packed_states[start:end].double(), padded_states[row:row_end].double()
            if not (a - b).norm() <= self.noise * b.norm():
                return "flat and padded batches give different states"
        return None


def _decoder(model: Any) -> Any:
    """The part of the model from token ids to last states."""
    body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    head = model.get_output_embeddings()
    if body is model or body is head:
        # transformers guesses by names of attributes, and knows no answer for some families (Llama 4).
        body = next((child for child in model.children() if hasattr(child, "get_input_embeddings")), None)
        if body is None:
            raise DselectError(f"{type(model).__name__}: its layers are not found below its output layer")
    return body


def _means(states: Tensor, spans: list[tuple[int, int]]) -> np.ndarray:
    return torch.stack([states[a:b].sum(0, dtype=torch.float32) / max(1, b - a) for a, b in spans]).cpu().numpy()


def _weighted_means(states: Tensor, spans: list[tuple[int, int]]) -> np.ndarray:
    """Σ i·state_i / Σ i, i the place of a token in its span, from 1."""
    means = []
    for start, end in spans:
        places = torch.arange(1, end - start + 1, dtype=torch.float32, device=states.device)
        weights = places / max(1.0, float(places.sum(dtype=torch.float64)))
        means.append((states[start:end].float() * weights[:, None]).sum(0))
    return torch.stack(means).cpu().numpy()


def _tokens(batch: list[Sequence]) -> int:
    return sum(map(len, batch))


def _trees(batch: list[Sequence]) -> list[Tree]:
    """The trees that a batch was filled with."""
    children: dict[int, list[Sequence]] = {}
    for sequence in batch:
        if sequence.root is not None:
            children.setdefault(id(sequence.root), []).append(sequence)
    roots = [s for s in batch if s.root is None]
    # A padded batch may lack the root of a continuation, because another batch scores that root.
    present = {id(root) for root in roots}
    absent = {id(s.root): s.root.unscored() for s in batch if s.root is not None and id(s.root) not in present}
    return [Tree(root, tuple(children.get(key, ()))) for key, root in [*((id(r), r) for r in roots), *absent.items()]]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this because a batch did not fit into memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
