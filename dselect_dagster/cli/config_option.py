"""The option that every command has: which dselect.yaml, and the settings and graph that it stands for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dselect_core.settings.settings import CONFIG_ENV, Settings, config_path, load_settings

if TYPE_CHECKING:
    import dagster as dg

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar=CONFIG_ENV, help="dselect.yaml; by default ./dselect.yaml")
]


def load(config: Path | None) -> tuple[Settings, Path]:
    """The settings, and where they were read."""
    path = (config or config_path()).resolve()
    return load_settings(path), path


def definitions(settings: Settings, path: Path) -> "dg.Definitions":
    """The graph of these settings."""
    from dselect_dagster.defs.graph import build_definitions

    return build_definitions(settings, str(path))
