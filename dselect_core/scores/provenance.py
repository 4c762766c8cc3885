"""The provenance of a kind of score by the settings in force, and the store of that provenance.

Of a source that has a rubric of its own: give `workspace.of_source(name)`.

Nothing here opens a model: what of it moves a score was recorded when it was made (lm/target_model.py).
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import Kind, ProvenanceInputs, kind_of
from dselect_core.lm import target_model
from dselect_core.lm.load import IDENTITIES, identity
from dselect_core.pool.store_of_sources import one_store
from dselect_core.scores.same_answers import with_same_answers
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import Store


def provenance_of(workspace: Workspace, kind: Kind, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All that can change a value of this kind, by the settings in force.

    model: provenance of the target model, where it is not to be that of the model in force.
    Raises DselectError when there is no model yet, or when what the provenance names cannot be read.
    """
    settings = workspace.settings
    if kind.reads_model(settings) and model is None:
        model = target_model.provenance(workspace)
    return kind.provenance(ProvenanceInputs(settings, model or {}, lambda path, rev: identity(path, rev, IDENTITIES)))


def store_of(workspace: Workspace, name: str) -> Store:
    """The store of a kind under the provenance that the settings ask for, which is written beside the scores."""
    kind = kind_of(name)
    provenance = provenance_of(workspace, kind)
    store = workspace.open_store(name, fingerprint(provenance))
    store.write_provenance(provenance)
    return with_same_answers(workspace, kind, store, provenance)


def future_store(workspace: Workspace, kind: Kind, model: Mapping[str, Any] | None) -> Store | None:
    """The store that a refresh will ask; None where it depends on a model whose provenance is not known yet.

    model: provenance of the model that there will be. Writes nothing.
    """
    if kind.reads_model(workspace.settings) and model is None:
        return None
    provenance = provenance_of(workspace, kind, model)
    store = workspace.open_store(kind.name, fingerprint(provenance))
    return with_same_answers(workspace, kind, store, provenance)


def future_store_of_pool(
    workspace: Workspace, kind: Kind, model: Mapping[str, Any] | None, sources: Mapping[str, pl.DataFrame]
) -> Store | None:
    """The same for the rows of several sources, which may have scores of their own provenances.

    sources: {name: sample_id of its rows}.
    """
    groups = workspace.settings.alike(sources, kind.maker) if kind.of_its_source else []
    if len(groups) < 2:
        return future_store(workspace.of_source(groups[0][0]) if groups else workspace, kind, model)
    stores: dict[str, Store] = {}
    for group in groups:
        store = future_store(workspace.of_source(group[0]), kind, model)
        if store is None:
            return None
        stores |= dict.fromkeys(group, store)
    held = [ids.select("sample_id", sources=pl.lit(name)) for name, ids in sources.items()]
    return one_store(stores, pl.concat(held).group_by("sample_id").agg("sources"))
