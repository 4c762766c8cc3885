"""Publish a recipe's coreset where the settings say, if what they require of it holds."""

from dataclasses import dataclass

from upath import UPath

from dselect_core.coreset.published import PublishedVersion, read_version
from dselect_core.errors import DselectError
from dselect_core.lineage.publishable import why_not_publishable
from dselect_core.publish.release import Release, release_of
from dselect_core.publish.to_folder import publish_to_folder
from dselect_core.publish.to_hub import publish_to_hub
from dselect_core.settings.workspace import Workspace


@dataclass(frozen=True)
class Published:
    """What was published. place: of the version; is_new: it was not there before, or not whole; gone: removed ones."""

    release: Release
    place: str
    is_new: bool
    gone: list[str]

    @property
    def rows(self) -> int:
        """Rows of the coreset."""
        return int(self.release.made.manifest["counts"]["rows"])


def publish_coreset(workspace: Workspace, recipe: str) -> Published:
    """Publish the coreset in force. One that is published already, under the same terms, is not written again.

    Raises DselectError, and moves no pointer, where a required check failed or is missing, the coreset is not made, or
    the place cannot be written to.
    """
    publish = workspace.settings.publish
    if publish is None:
        raise DselectError("nothing is published: the settings have no `publish`. Give it `to: FOLDER`")
    folder = workspace.coreset(recipe)

    def work(made: PublishedVersion) -> Published:
        why = why_not_publishable(workspace, recipe)
        if why is None and read_version(folder, lambda now: now.manifest) != made.manifest:
            why = "it changed while its checks were looked at. Run `dselect refresh` again"
        if why is not None:
            raise DselectError(f"coreset {recipe} is not published: {why}.")
        release = release_of(made, recipe, publish)
        if publish.hub_dataset is not None:
            is_new, gone = publish_to_hub(release, publish.hub_dataset, publish.keep)
        else:
            is_new, gone = publish_to_folder(release, UPath(publish.to, **publish.storage_options), publish.keep)
        return Published(release, f"{publish.to.rstrip('/')}/{recipe}/{release.version}", is_new, gone)

    try:
        return read_version(folder, work)
    except FileNotFoundError as error:
        raise DselectError(
            f"coreset {recipe} is not published: it is not made, or not whole ({error}); run `dselect refresh`"
        ) from None
