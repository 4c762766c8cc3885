"""One forward pass over samples → every kind of score that such a pass gives, as asked for.

The pass costs the same whether one kind is taken from it or all, so kinds that are missing for the same sample share
it. Samples are rendered as the batches need them, so memory follows the settings and not the corpus.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples
from dselect_core.errors import DselectError, first_line
from dselect_core.kinds import FromForwardPass, Kind, all_kinds
from dselect_core.lm import target_model
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace


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


def uncomputable_kinds(workspace: Workspace) -> dict[str, str]:
    """{kind: why the model in force cannot give it}, as was found when that model was opened.

    What one kind lacks is no reason to stop the others, so the pool and the recipes that read other kinds do without.
    Empty where there is no model yet.
    """
    try:
        record = target_model.read_record(workspace)
    except DselectError:
        return {}
    return _uncomputable(record.get("cannot", {}), record.get("neuron_layers"), workspace.settings)


def _uncomputable(cannot: Mapping[str, str], neuron_layers: int | None, settings: Settings) -> dict[str, str]:
    reasons = dict(cannot)
    last = None if neuron_layers is None else neuron_layers - 1
    if last is not None and any(layer > last for layer in settings.activations.layers or ()):
        reasons.setdefault("activations", f"activations.layers names a layer above {last}, the model's last")
    found = {}
    for name in sorted(forward_kinds(settings)):
        lacking = sorted(from_pass(all_kinds()[name], settings).signals & reasons.keys())
        if lacking:
            found[name] = f"{name} cannot be computed: {reasons[lacking[0]]}"
    return found


def forward_scores(
    lm: LanguageModel,
    samples: pl.DataFrame,
    kinds: frozenset[str],
    settings: Settings,
    progress: Progress | None = None,
    failures: dict[str, DselectError] | None = None,
) -> Iterator[dict[str, pl.DataFrame]]:
    """SAMPLES frame → batch by batch, one frame per kind in `kinds` (⊆ forward_kinds); in the end a row per sample.

    The batches, and with them the parts that a killed run leaves behind, follow from the samples alone. A sample that
    the model's chat template cannot render has nulls with the reason. Raises DselectError when a kind cannot be
    computed; with `failures` such a kind is entered there, has no further frames, and the pass goes on for the others.
    """
    failed: dict[str, DselectError] = {}
    for name, reason in _uncomputable(lm.forward.cannot, len(lm.forward.layers), settings).items():
        if name in kinds:
            _fail(failed, failures, name, DselectError(reason))
    wanted = [(all_kinds()[name], from_pass(all_kinds()[name], settings)) for name in sorted(kinds - failed.keys())]
    if not wanted:
        return
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
        frames = {}
        for kind, computation in wanted:
            if kind.name not in failed:
                try:
                    frames[kind.name] = computation.frame(batch_samples, signals, settings)
                    widths[kind.name] = _width(kind, frames[kind.name])
                except Exception as error:  # a kind may be of another package
                    message = f"{kind.name} cannot be computed: {type(error).__name__}: {first_line(error)}"
                    _fail(failed, failures, kind.name, DselectError(message), error)
        yield frames
        if len(failed) == len(kinds):
            return
        samples_done += len(batch)
        if progress is not None:
            progress(samples_done, samples.height)
    if unrendered:
        yield {
            kind.name: _nulls(kind, unrendered, widths.get(kind.name, 1))
            for kind, _ in wanted
            if kind.name not in failed
        }
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


def _fail(
    failed: dict[str, DselectError],
    failures: dict[str, DselectError] | None,
    name: str,
    error: DselectError,
    cause: Exception | None = None,
) -> None:
    error.__cause__ = cause
    if failures is None:
        raise error
    failed[name] = failures[name] = error


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
