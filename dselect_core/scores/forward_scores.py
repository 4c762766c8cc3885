"""One forward pass over samples → every kind of score that such a pass gives, as asked for.

The pass costs the same whether one kind is taken from it or all, so kinds that are missing for the same sample share
it. Samples are rendered as the batches need them, so memory follows the settings and not the corpus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples
from dselect_core.kinds import FromForwardPass, Kind, all_kinds
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.settings.settings import Settings


@dataclass(frozen=True)
class Unrendered:
    """A sample that the model's chat template cannot render, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class RenderedSample:
    """A sample as the model sees it; the name of a sequence on its way through the model."""

    id: str
    rendered: Rendered

    def zero_shot(self) -> Sequence:
        """The sample without a shot in front."""
        return Sequence(self, self.rendered.ids, self.rendered.response, self.rendered.first_response)


def forward_kinds(settings: Settings) -> frozenset[str]:
    """Names of the kinds that one forward pass over the samples gives under these settings."""
    return frozenset(
        name for name, kind in all_kinds().items() if isinstance(kind.computed_by(settings), FromForwardPass)
    )


def forward_scores(
    lm: LanguageModel,
    samples: pl.DataFrame,
    kinds: frozenset[str],
    settings: Settings,
    progress: Progress | None = None,
) -> Iterator[dict[str, pl.DataFrame]]:
    """SAMPLES frame → batch by batch, one frame per kind in `kinds` (⊆ forward_kinds); in the end a row per sample.

    The batches, and with them the parts that a killed run leaves behind, follow from the samples alone. A sample that
    the model's chat template cannot render has nulls with the reason.
    """
    wanted = [(all_kinds()[name], from_pass(all_kinds()[name], settings)) for name in sorted(kinds)]
    signals_wanted = frozenset[str]().union(*(computation.signals for _, computation in wanted))
    unrendered: list[Unrendered] = []

    def trees() -> Iterator[Tree]:
        for sample in render(lm, samples):
            if isinstance(sample, Unrendered):
                unrendered.append(sample)
            else:
                yield Tree(sample.zero_shot())

    samples_done, widths = 0, dict[str, int]()
    for batch, signals in lm.forward.over(
        trees(), lm.spec.batch_tokens, want=signals_wanted, **forward_options(settings)
    ):
        batch_samples = [sequence.name for sequence in batch]
        frames = {kind.name: computation.frame(batch_samples, signals, settings) for kind, computation in wanted}
        for kind, _ in wanted:
            widths[kind.name] = _width(kind, frames[kind.name])
        yield frames
        samples_done += len(batch)
        if progress is not None:
            progress(samples_done, samples.height)
    if unrendered:
        yield {kind.name: _nulls(kind, unrendered, widths.get(kind.name, 1)) for kind, _ in wanted}
        if progress is not None:
            progress(samples.height, samples.height)


def _width(kind: Kind, frame: pl.DataFrame) -> int:
    """Width of the kind's vectors in a frame; 1 where it has none."""
    types = [frame.schema[column.name] for column in kind.columns if column.vector]
    return next((type.shape[0] for type in types if isinstance(type, pl.Array)), 1)


def _nulls(kind: Kind, unrendered: "list[Unrendered]", width: int) -> pl.DataFrame:
    """Rows of the kind without a value, each with its reason."""
    rows = [{"sample_id": sample.id, kind.reason_column: sample.reason} for sample in unrendered]
    return pl.DataFrame(rows, schema=kind.schema(width))


def from_pass(kind: Kind, settings: Settings) -> FromForwardPass:
    """How the kind is taken from a forward pass. Raises ValueError when it is computed in another way."""
    computation = kind.computed_by(settings)
    if not isinstance(computation, FromForwardPass):
        raise ValueError(f"{kind.name}: not computed from a forward pass")
    return computation


def forward_options(settings: Settings) -> dict[str, Any]:
    """The settings that the forward pass takes, as keyword arguments of `Forward.run`."""
    activations = settings.activations
    return {
        "beta": settings.difficulty.beta,
        "neuron_tokens": activations.tokens,
        "neuron_layers": activations.layers,
    }


def render(lm: LanguageModel, samples: pl.DataFrame) -> Iterator[RenderedSample | Unrendered]:
    """SAMPLES frame → every sample as token ids, one at a time, or the reason why the template cannot render it."""
    contents = conform_samples(samples).select("sample_id", "messages", "tools")
    for sample_id, messages, tools in contents.iter_rows():
        try:
            yield RenderedSample(sample_id, lm.renderer.render(chat_messages(messages), chat_tools(tools)))
        except UnrenderableError as error:
            yield Unrendered(sample_id, str(error))
