"""One corpus in the graph: its settings, its names, and how its assets come to their workspace.

The assets close over this. A resource would be one more name that all of a code location share, and two corpora, or a
team's own `workspace`, would collide in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dselect_core.settings.settings import Settings, config_path, load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.namespace import PLAIN, Namespace


@dataclass(frozen=True)
class Corpus:
    """settings: as they were when the definitions were loaded; runs use those that `open` reads.

    automation: whether the sensors are switched on where nobody switched them yet. pools: whether its runs take slots
    of pools (run_policy.py), as those of a deployment do: a command in the foreground has its process to itself, and
    would wait in silence.
    open: the workspace of the settings as they are now, read at each use, so that a run sees the file as it is when it
    starts. Raises DselectError when they cannot be read. written_in: where a person edits them, for messages.
    """

    settings: Settings
    open: Callable[[], Workspace]
    namespace: Namespace = PLAIN
    written_in: str = "dselect.yaml"
    automation: bool = False
    pools: bool = False

    @classmethod
    def of_file(
        cls, settings: Settings, config: str = "", name: str = "", automation: bool = False, pools: bool = False
    ) -> "Corpus":
        """A corpus whose settings lie in a file. config: its path; empty: the file in force when a run starts."""
        return cls(
            settings,
            lambda: Workspace(load_settings(Path(config) if config else config_path())),
            Namespace(name),
            config or "dselect.yaml",
            automation,
            pools,
        )
