"""One forward pass over samples → difficulty, embeddings, prompt embeddings and active neurons, as asked for."""

from collections.abc import Iterator

import polars as pl

from dselect_core.config import Settings
from dselect_core.errors import DselectError
from dselect_core.lm.batches import batches
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.scores import activations, difficulty, embeddings

KINDS = frozenset({"difficulty", "embeddings", "prompts", "activations"})


def one_pass(
    lm: LanguageModel,
    samples: pl.DataFrame,
    want: frozenset[str],
    settings: Settings,
    progress: Progress | None = None,
) -> Iterator[dict[str, pl.DataFrame]]:
    """SAMPLES frame → batch by batch, one frame per kind in `want` (⊆ KINDS); a row for every sample in the end.

    The batches, and with them the parts that a killed run leaves behind, follow from the samples alone.
    Raises DselectError naming the sample when the chat template cannot render it.
    """
    ids = samples["sample_id"].to_list()
    rendered = render_all(lm, samples)
    done = 0
    for batch in batches([len(r.ids) for r in rendered], lm.spec.batch_tokens):
        chosen, names = [rendered[i] for i in batch], [ids[i] for i in batch]
        signals = lm.forward.run(
            [r.ids for r in chosen],
            [r.response for r in chosen],
            [r.first_response for r in chosen],
            want=want | ({"embeddings"} if "prompts" in want else set()),
            beta=settings.difficulty.beta,
            neuron_tokens=settings.activations.tokens,
            neuron_layers=settings.activations.layers,
        )
        scored = {}
        if "difficulty" in want:
            scored["difficulty"] = difficulty.frame(names, chosen, signals)
        if "embeddings" in want:
            assert signals.state is not None
            scored["embeddings"] = embeddings.frame(names, signals.state)
        if "prompts" in want:
            assert signals.prompt_state is not None
            scored["prompts"] = embeddings.prompt_frame(names, signals.prompt_state)
        if "activations" in want:
            scored["activations"] = activations.frame(names, signals, settings.activations)
        yield scored
        done += len(batch)
        if progress is not None:
            progress(done, len(ids))


def render_all(lm: LanguageModel, samples: pl.DataFrame) -> list[Rendered]:
    rendered = []
    for sample_id, messages in samples.select("sample_id", "messages").iter_rows():
        try:
            rendered.append(lm.renderer.render(messages))
        except DselectError as error:
            raise DselectError(f"sample {sample_id}: {error}") from None
        except Exception as error:  # jinja raises what the template's author chose
            raise DselectError(
                f"sample {sample_id}: the model's chat template refuses this conversation ({error}); "
                "set `template: alpaca` under `model`"
            ) from error
    return rendered
