"""Assemble the definitions from settings. Importing and calling this loads no model library."""

from pathlib import Path

import dagster as dg

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders import grades as dependability
from dselect_core.lm.load import IDENTITIES, identity
from dselect_core.neighbors.nearest import REVISION as NEIGHBORS_REVISION
from dselect_core.pool.corpus_index import needed_kinds
from dselect_core.scores import activations, difficulty, embeddings, miwv
from dselect_core.settings.settings import ModelSpec, Settings
from dselect_dagster.defs.asset_checks import asset_checks
from dselect_dagster.defs.assets import coreset as selection
from dselect_dagster.defs.assets import pool as corpus_wide
from dselect_dagster.defs.assets import raw_dataset as corpus
from dselect_dagster.defs.assets import scores
from dselect_dagster.defs.assets import warmup_model as model
from dselect_dagster.defs.resources import WorkspaceResource
from dselect_dagster.defs.sensors import automation, regular_refreshes, sources_and_recipes


def build_definitions(settings: Settings, config: str = "") -> dg.Definitions:
    """The graph for these settings. `config`: path the runs read the settings from ("" for the one in force).

    An asset that no recipe reads is in the graph, to be materialised by hand, but nothing requests it.
    """
    needed = needed_kinds(settings)
    versions = code_versions(settings)
    assets = [
        corpus.raw_dataset(settings.owners),
        model.warmup_model(settings, versions["warmup_model"]),
        scores.score_source(settings, needed, versions),
        scores.dependability_grades(settings, needed, versions["dependability_grades"]),
        corpus_wide.corpus_index(settings, needed),
        corpus_wide.neighbors(settings, needed, versions["neighbors"]),
        corpus_wide.miwv_values(settings, needed, versions["miwv_values"]),
        selection.coreset_spec(settings),
        selection.candidates(settings, needed),
        selection.coreset(settings),
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=asset_checks(needed),
        sensors=[sources_and_recipes, automation],
        schedules=regular_refreshes(settings.schedule),
        resources={"workspace": WorkspaceResource(config=config)},
        # One process a run: the steps share one loaded model, and torch is imported once.
        executor=dg.in_process_executor,
    )


def code_versions(settings: Settings) -> dict[str, str]:
    """Per asset: its algorithm's revision and the settings that change its values, hashed.

    The model's identity is not among them: scores depend on it through `warmup_model`'s data version.
    """
    rendering = settings.model.model_dump(include={"dtype", "max_length", "template"})
    encoder = settings.embeddings
    parts = {
        "warmup_model": _model_version(settings),
        "difficulty_scores": difficulty.recipe(rendering, settings.difficulty),
        "embeddings": [
            embeddings.recipe(rendering),
            embeddings.prompt_recipe(rendering)
            if encoder.path is None
            else embeddings.encoder_recipe(_known_identity(encoder.path, encoder.revision), encoder),
        ],
        "activations": activations.recipe(rendering, settings.activations),
        "dependability_grades": dependability.recipe(settings.grader),
        # The mode depends on the pool's size too; the table itself records which one it was.
        "neighbors": [NEIGHBORS_REVISION, settings.neighbors.model_dump()],
        "miwv_values": miwv.recipe(rendering),
    }
    return {name: fingerprint(part)[:12] for name, part in parts.items()}


def _model_version(settings: Settings) -> list[object]:
    spec: ModelSpec = settings.model
    if spec.path == "builtin":
        return ["builtin", settings.warmup.model_dump()]
    return [_known_identity(spec.path, spec.revision)]


def _known_identity(path: str, revision: str | None) -> str:
    """Identity of a local folder; a hub name as it is written, for loading a code location asks no network.

    A path that is no model fails in its run, with a message, and not here, where it would hide the graph.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return f"{path}@{revision}"
    try:
        return identity(path, revision, IDENTITIES)
    except DselectError:
        return f"{path}@unreadable"
