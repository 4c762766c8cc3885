"""Publish to a dataset of the Hugging Face hub: the version, the pointer and the card of the whole in one commit.

So the pointer cannot come before its version. `load_dataset("org/name", "<recipe>")` loads the version in force, for
each recipe is a configuration of the card, and the repository's history keeps what retention removes.

    <recipe>/<version>/…, <recipe>/latest.json      as in a folder (to_folder.py)
    README.md                                       the card, with a configuration for each recipe

Trade-off: the commit is made on top of the one that was read, and is refused where another came between; it is tried
again from the start. The dataset has to be there: whether it is public is not ours to say.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from upath import UPath

from dselect_core.coreset.published import write_in_place
from dselect_core.errors import DselectError, first_line
from dselect_core.publish.card import hub_card
from dselect_core.publish.release import CARD, POINTER, Release, kept_versions, pointers_of, why_not_whole
from dselect_core.storage.files import write_text
from dselect_core.storage.json_file import parse_json, write_json

_ATTEMPTS = 5
_OVERTAKEN = (409, 412)
"""What the hub answers where somebody else's commit came between."""


def publish_to_hub(release: Release, dataset: str, keep: int) -> tuple[bool, list[str]]:
    """Returns whether a version was written, and the versions that went. dataset: `org/name`.

    Raises DselectError where the hub cannot be reached, or has no such dataset to write to.
    """
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        for _ in range(_ATTEMPTS - 1):
            try:
                return _commit(release, dataset, keep)
            except HfHubHTTPError as error:
                if error.response.status_code not in _OVERTAKEN:
                    raise
        return _commit(release, dataset, keep)
    except RepositoryNotFoundError:
        raise DselectError(
            f"hf://datasets/{dataset}: no such dataset, or none that may be written to. Make it (`hf repo create "
            f"{dataset} --repo-type dataset`, with `--private` where it should be), and set HF_TOKEN"
        ) from None
    except DselectError:
        raise
    except Exception as error:  # of the HTTP client, which is another one in other versions of huggingface_hub
        what = f"{type(error).__name__}: {first_line(error)}"
        raise DselectError(f"hf://datasets/{dataset}: the hub refuses, or cannot be reached ({what})") from error


class HubDataset:
    """A dataset of the hub as its head is now. present: {file: None}, for the hub lists no sizes; sha: of the head."""

    def __init__(self, dataset: str):
        from huggingface_hub import HfApi

        self.api, self.dataset = HfApi(), dataset
        info = self.api.dataset_info(dataset)
        self.sha = info.sha
        self.present: dict[str, None] = dict.fromkeys(each.rfilename for each in info.siblings or [])

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return Path(self.api.hf_hub_download(self.dataset, name, repo_type="dataset", revision=self.sha)).read_bytes()

    def read_json(self, recipe: str, name: str) -> dict[str, Any]:
        """The content of a JSON file of a recipe's folder. Raises DamagedFileError where it is none."""
        return parse_json(self.read(f"{recipe}/{name}"), UPath(name))

    def of_recipe(self, recipe: str) -> dict[str, None]:
        """`present` of a recipe's folder, with names inside it."""
        within = f"{recipe}/"
        return {name.removeprefix(within): None for name in self.present if name.startswith(within)}


def _commit(release: Release, dataset: str, keep: int) -> tuple[bool, list[str]]:
    hub = HubDataset(dataset)
    present = hub.of_recipe(release.recipe)
    read = partial(hub.read_json, release.recipe)
    pointers = {name: read(name) for name in present if "/" not in name and name.endswith(".json")}
    card = hub.read(CARD).decode() if CARD in hub.present else None
    is_new = why_not_whole(present, release.version, read) is not None
    with tempfile.TemporaryDirectory() as folder:
        gone = stage(release, UPath(folder), pointers_of(pointers), card, keep, is_new=is_new)
        if not any(Path(folder).iterdir()):
            return False, []
        hub.api.upload_folder(
            repo_id=dataset,
            folder_path=folder,
            repo_type="dataset",
            parent_commit=hub.sha,
            commit_message=f"{release.recipe}: version {release.version}",
            delete_patterns=[f"{release.recipe}/{name}/*" for name in gone] or None,
        )
    return is_new, gone


def stage(
    release: Release,
    folder: UPath,
    pointers: Mapping[str, dict[str, Any]],
    card: str | None,
    keep: int,
    *,
    is_new: bool,
) -> list[str]:
    """Write what one commit adds to a folder, and return the versions that it removes. Empty where nothing moves.

    pointers, card: as they are in the dataset. is_new: the version is not there, or not whole.
    """
    stay, gone = kept_versions(release.version, pointers, keep)
    before = pointers.get(POINTER, {})
    if not is_new and (before.get("version"), before.get("versions")) == (release.version, stay):
        return []
    within = f"{release.recipe}/{release.version}"
    if is_new:
        write_in_place(folder / within, release.files(), release.manifest)
    write_json(release.pointer(stay), folder / release.recipe / POINTER)
    write_text(hub_card(card, release.recipe, release.card, within), folder / CARD)
    return gone
