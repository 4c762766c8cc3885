"""What somebody else removed where coresets are published: a pointer, the version it names, or files of that.

No data version shows it, so the place is looked at. The pointer says which version is in force there; one that a person
moved to another whole version is left to them until the coreset moves.

Trade-off: a listing of each recipe's folder (of a dataset of the hub one request, and the pointers and manifests) when
it is asked for. A place that does not answer is a warning and no loss: nothing may be due there.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from upath import UPath

from dselect_core.errors import DselectError, first_line
from dselect_core.publish.release import POINTER, why_not_whole
from dselect_core.publish.to_hub import HubDataset
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.folder_listing import list_tree
from dselect_core.storage.json_file import read_json

_log = logging.getLogger(__name__)


def lost_publications(workspace: Workspace, *, of_hub: bool = True) -> dict[str, str]:
    """{recipe: what is lost of what is published of it}, also of a recipe that never was. of_hub: ask the hub too."""
    publish = workspace.settings.publish
    if publish is None or (publish.hub_dataset is not None and not of_hub):
        return {}
    recipes = publish.recipes_of(workspace.settings.coresets)
    try:
        if publish.hub_dataset is not None:
            hub = HubDataset(publish.hub_dataset)
            found = {name: _why_lost(hub.of_recipe(name), partial(hub.read_json, name)) for name in recipes}
        else:
            root = UPath(publish.to, **publish.storage_options)
            found = {name: _of_folder(root / name) for name in recipes}
    except Exception as error:  # of the file system, or of the HTTP client
        what = f"{type(error).__name__}: {first_line(error)}"
        _log.warning("%s does not answer: what is published there was not looked at (%s)", publish.to, what)
        return {}
    return {recipe: f"{publish.to.rstrip('/')}/{recipe} {why}" for recipe, why in found.items() if why is not None}


def _of_folder(folder: UPath) -> str | None:
    present = {name: entry.size for name, entry in list_tree(folder).items()}
    return _why_lost(present, lambda name: read_json(folder / name))


def _why_lost(present: Mapping[str, int | None], read: Callable[[str], dict[str, Any]]) -> str | None:
    if POINTER not in present:
        return f"has no {POINTER}"
    try:
        version = read(POINTER)["version"]
    except (DselectError, KeyError) as error:
        return f"has a {POINTER} that cannot be read ({first_line(error)})"
    return why_not_whole(present, version, read)
