"""A reward model: a Hugging Face sequence classifier with one label; a whole conversation → one number.

Its own forward pass runs, on rows that are sorted by length and padded on the right: so the pooling is the one that the
family has (the last token that is no padding, the first token of an encoder), and nothing of it is repeated here. A
flat batch without padding would save the padding, and would need the pooling of every family. Rows of about one length
have little padding.

Whether padding changes a value is tried when the model is opened; a model where it does (recurrent layers) runs row by
row.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dselect_core.errors import DselectError
from dselect_core.lm.forward import is_out_of_memory
from dselect_core.lm.load import (
    DEFAULT_WINDOW,
    check_vocabulary,
    described,
    device,
    family,
    placement,
    quiet_transformers,
)
from dselect_core.lm.message_form import Message, Tools
from dselect_core.lm.numeric_type import noise
from dselect_core.lm.packing import padded_batches
from dselect_core.lm.responses import find_responses
from dselect_core.lm.whole_text import WholeText
from dselect_core.settings.model_spec import ModelSpec


class RewardModel:
    """An opened reward model. pads: whether rows of different length may run together."""

    def __init__(self, model: Any, text: WholeText, batch_tokens: int):
        self.model = model
        self.text = text
        self._budget = batch_tokens
        self._device: torch.device = next(model.parameters()).device
        self._vocabulary = len(model.get_input_embeddings().weight)
        self._config = model.config.get_text_config()
        self.pads = self._padding_changes_nothing()

    def ids(self, messages: list[Message], tools: Tools = None) -> np.ndarray:
        """The whole conversation, as the model's own chat template prints it, as int32 ids.

        Raises UnrenderableError where the template does not print it as it is, DoesNotFitError.
        """
        accepted = self.text.template.accepted(messages, tools)
        return self.text.ids(find_responses(self.text.template, *accepted)[0])

    def rewards(self, conversations: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Batch by batch, positions in `conversations` and their rewards, float64 [batch]; longest first.

        A batch that does not fit into memory is halved. Raises DselectError when a single row does not fit.
        """
        lengths = [len(ids) for ids in conversations]
        together = padded_batches(lengths, self._budget) if self.pads else ([i] for i in range(len(lengths)))
        for rows in together:
            yield from self._halving(conversations, rows)

    def _halving(self, conversations: Sequence[np.ndarray], rows: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        try:
            values = self._run([conversations[row] for row in rows])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            values = None
        if values is not None:
            yield rows, values
            return
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(len(conversations[row]) for row in rows)
        if len(rows) == 1:
            raise DselectError(
                f"a conversation of {longest} tokens does not fit into the memory of {self._device}: lower "
                "`max_length` under `grader`, or choose a smaller reward model or another `device`"
            )
        half = len(rows) // 2
        self._budget = min(self._budget, longest * half)
        for part in (rows[:half], rows[half:]):
            yield from self._halving(conversations, part)

    @torch.inference_mode()
    def _run(self, conversations: list[np.ndarray]) -> np.ndarray:
        longest = max(map(len, conversations))
        own_padding = self._own_padding
        padding = _unused(conversations, self._vocabulary) if own_padding is None else own_padding
        if padding is None:  # every token of the vocabulary occurs
            return np.concatenate([self._run([ids]) for ids in conversations])
        ids = np.full((len(conversations), longest), padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, of_row in enumerate(conversations):
            ids[row, : len(of_row)] = of_row
            mask[row, : len(of_row)] = 1
        with self._padded_with(padding if own_padding is None and len(conversations) > 1 else None):
            logits = self.model(
                input_ids=torch.from_numpy(ids).to(self._device),
                attention_mask=torch.from_numpy(mask).to(self._device),
            ).logits
        values: np.ndarray = logits.reshape(len(conversations)).double().cpu().numpy()
        return values

    @property
    def _own_padding(self) -> int | None:
        """The padding that the model's configuration names; the pooling of most families looks for it in the ids."""
        padding = getattr(self._config, "pad_token_id", None)
        return padding if padding is not None and 0 <= padding < self._vocabulary else None

    @contextlib.contextmanager
    def _padded_with(self, padding: int | None) -> Iterator[None]:
        """Inside the context the configuration names this padding; None: its own."""
        if padding is None:
            yield
            return
        own = getattr(self._config, "pad_token_id", None)
        self._config.pad_token_id = padding
        try:
            yield
        finally:
            self._config.pad_token_id = own

    def _padding_changes_nothing(self) -> bool:
        self.pads = True
        top = min(self._vocabulary - 1, 250)
        rows = [(np.arange(3, 3 + length) * 7 % top + 1).astype(np.int32) for length in (11, 4, 7)]
        together, alone = self._run(rows), np.concatenate([self._run([row]) for row in rows])
        within = noise(self.model)
        return bool(np.allclose(together, alone, rtol=within, atol=within))


def _unused(conversations: list[np.ndarray], vocabulary: int) -> int | None:
    """The lowest id that none of them holds."""
    used = np.zeros(vocabulary, dtype=bool)
    for ids in conversations:
        used[ids] = True
    return None if used.all() else int(np.argmin(used))


def open_reward_model(path: str, spec: ModelSpec) -> RewardModel:
    """Open the reward model at `path` (folder or hub name) in evaluation mode on the chosen device.

    Raises DselectError naming the path when it is no sequence classifier, has more labels than one, lacks the weights
    of its head, or its tokenizer has no chat template.
    """
    quiet_transformers()
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    def refused(why: str) -> DselectError:
        return DselectError(f"reward model {path}: {why}")

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=spec.revision)
        config = AutoConfig.from_pretrained(path, revision=spec.revision)
        if config.num_labels != 1:
            raise refused(
                f"it has {config.num_labels} labels ({', '.join(map(str, config.id2label.values()))}), and a reward "
                "model has one (num_labels: 1), whose value is the reward. Name another model under `grader`."
            )
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            path,
            revision=spec.revision,
            dtype=getattr(torch, spec.dtype),
            output_loading_info=True,
            **(placed := placement(config, spec)),
        )
    except DselectError:
        raise
    except Exception as error:  # whatever the code of hundreds of families raises
        raise refused(f"cannot be opened as a sequence classifier: {described(error)}") from error
    if loaded["missing_keys"]:
        raise refused(
            f"its files lack the weights {', '.join(sorted(loaded['missing_keys'])[:3])}, which would be random "
            "numbers: it was not saved as a sequence classifier. Name a reward model, or give this one as `judge`."
        )
    check_vocabulary(path, tokenizer, model)
    model.eval()
    stated = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    # transformers writes 1e30 for a tokenizer without a limit.
    own = min((int(length) for length in stated if length is not None and 0 < length < 1e9), default=DEFAULT_WINDOW)
    try:
        if not placed:
            model.to(device(spec.device))
        text = WholeText(tokenizer, min(spec.max_length or own, own))
        return RewardModel(model, text, spec.batch_tokens)
    except DselectError as error:
        raise refused(str(error)) from error
    except Exception as error:
        raise refused(f"models of the family {family(model)} do not run here: {described(error)}") from error
