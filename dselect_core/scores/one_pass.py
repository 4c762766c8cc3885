"""One forward pass over a source's samples → difficulty, embeddings and active neurons, whichever are asked for."""

import polars as pl

from dselect_core.config import Settings
from dselect_core.errors import DselectError
from dselect_core.lm.batches import batches
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.scores import activations, difficulty, embeddings

KINDS = frozenset({"difficulty", "embeddings", "activations"})


def one_pass(
    lm: LanguageModel,
    samples: pl.DataFrame,
    want: frozenset[str],
    settings: Settings,
    progress: Progress | None = None,
) -> dict[str, pl.DataFrame]:
    """SAMPLES frame → one frame per kind in `want` (⊆ KINDS), a row for every sample.

    Raises DselectError naming the sample when the chat template cannot render it.
    """
    ids = samples["sample_id"].to_list()
    rendered = render_all(lm, samples)
    parts: dict[str, list[pl.DataFrame]] = {kind: [] for kind in want}
    done = 0
    for batch in batches([len(r.ids) for r in rendered], lm.spec.batch_tokens):
        chosen, names = [rendered[i] for i in batch], [ids[i] for i in batch]
        signals = lm.forward.run(
            [r.ids for r in chosen],
            [r.response for r in chosen],
            [r.first_response for r in chosen],
            want=want,
            beta=settings.difficulty.beta,
            neuron_tokens=settings.activations.tokens,
            neuron_layers=settings.activations.layers,
        )
        if "difficulty" in want:
            parts["difficulty"].append(difficulty.frame(names, chosen, signals))
        if "embeddings" in want:
            parts["embeddings"].append(embeddings.frame(names, signals))
        if "activations" in want:
            parts["activations"].append(activations.frame(names, signals, settings.activations))
        done += len(batch)
        if progress is not None:
            progress(done, len(ids))
    return {kind: pl.concat(frames) for kind, frames in parts.items() if frames}


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
