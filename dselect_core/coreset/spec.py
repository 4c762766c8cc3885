"""A recipe as a refresh recorded it: the settings' entry under `coresets`, and the version of it.

Recorded, so that a coreset is made from the recipe that its lineage names, whatever the settings say by then.
"""

from typing import Any

from pydantic import ValidationError

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.select.recipe import CoresetSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json, write_json


def write_spec(workspace: Workspace, recipe: str) -> tuple[CoresetSpec, str]:
    """Record a recipe as the settings have it; returns it and its version, the hash of its canonical JSON.

    Raises DselectError when the settings have no such recipe.
    """
    spec = workspace.settings.coresets.get(recipe)
    if spec is None:
        raise DselectError(
            f"no recipe {recipe!r} under `coresets`; there are: {', '.join(workspace.settings.coresets)}"
        )
    write_json(_canonical(spec), workspace.spec(recipe))
    return spec, spec_version(spec)


def read_spec(workspace: Workspace, recipe: str) -> CoresetSpec:
    """The recipe as `write_spec` recorded it. Raises FileNotFoundError where it has not, or DamagedFileError."""
    path = workspace.spec(recipe)
    try:
        return CoresetSpec.model_validate(read_json(path))
    except ValidationError as error:
        raise DamagedFileError(path, f"not a recipe ({error.errors()[0]['msg']})") from None


def spec_version(spec: CoresetSpec) -> str:
    """Hash of the recipe: another strategy, budget, seed or option is another version."""
    return fingerprint(_canonical(spec))


def _canonical(spec: CoresetSpec) -> dict[str, Any]:
    """What the choice depends on: not whether it is tried afterwards.

    Without the options the recipe does not give: a new option then leaves the version of older recipes alone.
    """
    unset = set() if spec.quota else {"quota"}
    return spec.model_dump(mode="json", exclude_none=True, exclude={"trial", "require"} | unset)
