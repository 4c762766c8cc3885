"""The model that trials tune: the target model, or another one that the settings name."""

from dselect_core.errors import DselectError
from dselect_core.lm import load
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.settings.workspace import Workspace


def trial_model(workspace: Workspace) -> TunableModel:
    """The model of the settings. Raises DselectError where the target model is meant and not made yet."""
    settings = workspace.settings
    if settings.trials.model is None:
        return TunableModel.of_target(workspace, settings.trials)
    path, revision = settings.trials.model, settings.trials.revision
    spec = settings.model.model_copy(update={"path": path, "revision": revision})
    return TunableModel(workspace, path, load.identity(path, revision, load.IDENTITIES), spec, settings.trials)


def require_eval_sets(names: object) -> None:
    """Raises DselectError where there is nothing to measure on."""
    if not names:
        raise DselectError(
            "a trial needs held-out rows: give a source `role: eval` under `sources`, or split some rows off into one"
        )
