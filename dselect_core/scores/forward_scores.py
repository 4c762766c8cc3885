"""One forward pass over samples → difficulty, embeddings, prompt embeddings and active neurons, as asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.scores import activations, difficulty, embeddings
from dselect_core.settings.settings import Settings

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals

KINDS = frozenset({"difficulty", "embeddings", "prompts", "activations"})


@dataclass(frozen=True)
class Sample:
    """What a sequence is named by on its way through the model."""

    id: str
    rendered: Rendered

    def sequence(self) -> Sequence:
        """Zero-shot."""
        return Sequence(self, self.rendered.ids, self.rendered.response, self.rendered.first_response)


def one_pass(
    lm: LanguageModel,
    samples: pl.DataFrame,
    want: frozenset[str],
    settings: Settings,
    progress: Progress | None = None,
) -> Iterator[dict[str, pl.DataFrame]]:
    """SAMPLES frame → batch by batch, one frame per kind in `want` (⊆ KINDS); a row for every sample in the end.

    Samples are rendered as the batches need them, so memory follows the settings and not the corpus. The batches, and
    with them the parts that a killed run leaves behind, follow from the samples alone. Raises DselectError naming the
    sample when the chat template cannot render it.
    """
    trees = (Tree(sample.sequence()) for sample in render(lm, samples))
    done = 0
    for batch, signals in lm.forward.over(trees, lm.spec.batch_tokens, want=signals_of(want), **how(settings)):
        yield frames([sequence.name for sequence in batch], signals, want, settings)
        done += len(batch)
        if progress is not None:
            progress(done, samples.height)


def signals_of(want: frozenset[str]) -> frozenset[str]:
    """What the forward pass is asked for, for kinds of score."""
    return (want - {"prompts"}) | ({"embeddings"} if "prompts" in want else set())


def how(settings: Settings) -> dict[str, Any]:
    """The settings that the forward pass takes."""
    spec = settings.activations
    return {"beta": settings.difficulty.beta, "neuron_tokens": spec.tokens, "neuron_layers": spec.layers}


def frames(
    samples: list[Sample], signals: "Signals", want: frozenset[str], settings: Settings
) -> dict[str, pl.DataFrame]:
    """Signals of these samples, in their order, as one frame per kind in `want`."""
    ids = [sample.id for sample in samples]
    scored = {}
    if "difficulty" in want:
        scored["difficulty"] = difficulty.frame(ids, [sample.rendered for sample in samples], signals)
    if "embeddings" in want:
        assert signals.state is not None
        scored["embeddings"] = embeddings.frame(ids, signals.state)
    if "prompts" in want:
        assert signals.prompt_state is not None
        scored["prompts"] = embeddings.prompt_frame(ids, signals.prompt_state)
    if "activations" in want:
        scored["activations"] = activations.frame(ids, signals, settings.activations)
    return scored


def render(lm: LanguageModel, samples: pl.DataFrame) -> Iterator[Sample]:
    """SAMPLES frame → every sample as token ids, one at a time. Raises DselectError naming the sample."""
    for sample_id, messages in samples.select("sample_id", "messages").iter_rows():
        try:
            yield Sample(sample_id, lm.renderer.render(messages))
        except DselectError as error:
            raise DselectError(f"sample {sample_id}: {error}") from None
        except Exception as error:  # jinja raises what the template's author chose
            raise DselectError(
                f"sample {sample_id}: the model's chat template refuses this conversation ({error}); "
                "set `template: alpaca` under `model`"
            ) from error
