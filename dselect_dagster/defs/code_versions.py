"""The code version of each asset: what of the code and the settings changes its values, hashed.

A hub name counts as it is written, for loading a code location asks no network.
"""

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import Kind, ProvenanceInputs, kinds_by_asset
from dselect_core.lm.load import IDENTITIES, identity, is_here
from dselect_core.lm.render import RENDERING
from dselect_core.neighbors.near_duplicates import REVISION as NEAR_DUPLICATES_REVISION
from dselect_core.neighbors.nearest import REVISION as NEIGHBORS_REVISION
from dselect_core.pool.corpus_index import needed_kinds
from dselect_core.rounds.make_round import REVISION as ROUND_REVISION
from dselect_core.settings.settings import Settings
from dselect_core.settings.trials_spec import TASK_KEYS
from dselect_core.trials.lm_eval_tasks import tasks_version


def code_versions(settings: Settings) -> dict[str, str]:
    """{asset: 12 hex digits}, of the model, neighbours, held-out rows, trials, rounds, every asset that holds scores.

    Near-duplicates are among them where the settings ask for them. The model's identity is not: scores depend on it
    through `warmup_model`'s data version.
    """
    rendering = settings.model.model_dump(mode="json", include={"dtype", "max_length", "template", "date"})
    rendering["rendering"] = RENDERING
    inputs = ProvenanceInputs(settings, rendering, _known_identity)
    parts: dict[str, object] = {
        "warmup_model": _model_version(settings),
        # How they are searched depends on the pool's size too; the table itself records which way it was.
        "neighbors": [NEIGHBORS_REVISION, settings.neighbors.model_dump()],
        "held_out": settings.sources_of("eval"),  # a source's role may change without its rows
        "trial": _trial_version(settings),
        "d3_round": [ROUND_REVISION, settings.feedback.model_dump(mode="json")],
    }
    if settings.near_duplicates is not None:
        parts["near_duplicates"] = [NEAR_DUPLICATES_REVISION, settings.near_duplicates.model_dump()]
    needed = needed_kinds(settings)
    for asset, kinds in kinds_by_asset(settings).items():
        counted = [kind for kind in kinds if kind.name in needed or not kind.joined]
        # A maker's name too: under another one the same scores are looked up for other heads.
        provenances = [
            _provenance(kind, inputs) if kind.maker is None else [kind.maker, _provenance(kind, inputs)]
            for kind in counted
        ]
        parts[asset] = provenances[0] if len(provenances) == 1 else provenances
    return {asset: fingerprint(part)[:12] for asset, part in parts.items()}


def _provenance(kind: Kind, inputs: ProvenanceInputs) -> object:
    """What cannot be read (a rubric, an encoder's settings) fails in its run; here it would hide the graph."""
    try:
        return kind.provenance(inputs)
    except DselectError as error:
        return f"unreadable: {error}"


def _model_version(settings: Settings) -> list[object]:
    spec = settings.model
    if spec.path == "builtin":
        return ["builtin", settings.warmup.model_dump()]
    return [_known_identity(spec.path, spec.revision)]


def _trial_version(settings: Settings) -> list[object]:
    """All of the settings of trials that moves a result. The target model counts through `warmup_model`'s version."""
    spec = settings.trials
    named = None if spec.model is None else _known_identity(spec.model, spec.revision)
    moves_nothing = {"model", "revision", "max_seconds", "keep_models", "task_path", *([] if spec.tasks else TASK_KEYS)}
    parts: list[object] = [spec.model_dump(mode="json", exclude=moves_nothing), named]
    return [*parts, tasks_version(spec)] if spec.tasks else parts


def _known_identity(path: str, revision: str | None) -> str:
    """Identity of a local folder or file; a hub name as it is written.

    A path that is no model fails in its run, with a message, and not here, where it would hide the graph.
    """
    if not is_here(path):
        return f"{path}@{revision}"
    try:
        return identity(path, revision, IDENTITIES)
    except DselectError:
        return f"{path}@unreadable"
