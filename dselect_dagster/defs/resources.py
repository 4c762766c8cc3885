"""The one resource: the settings and the storage. Opened when a run uses it, never at load."""

from pathlib import Path

import dagster as dg

from dselect_core.settings.settings import config_path, load_settings
from dselect_core.settings.workspace import Workspace


class WorkspaceResource(dg.ConfigurableResource[Workspace]):
    """Reads dselect.yaml at each use, so that a run sees the file as it is when it starts."""

    config: str = ""

    def open(self) -> Workspace:
        """The workspace of the settings as they are now. Raises DselectError when they cannot be read."""
        return Workspace(load_settings(Path(self.config) if self.config else config_path()))
