"""The options that commands share: which dselect.yaml, under which name, and the settings and graph they stand for."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dselect_core.errors import DselectError
from dselect_core.settings.settings import CONFIG_ENV, Settings, config_path, load_settings

if TYPE_CHECKING:
    import dagster as dg

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar=CONFIG_ENV, help="dselect.yaml; by default ./dselect.yaml")
]
NameOption = Annotated[
    str, typer.Option("--name", help="of the component `dselect_dagster.Curation`, whose assets are meant")
]


def load(config: Path | None) -> tuple[Settings, Path]:
    """The settings, and where they were read."""
    path = (config or config_path()).resolve()
    return load_settings(path), path


def definitions(settings: Settings, path: Path, name: str = "") -> "dg.Definitions":
    """The graph of these settings. name: that of the component that has them; empty: plain names."""
    from dselect_dagster.defs.corpus import Corpus
    from dselect_dagster.defs.graph import corpus_definitions

    if not re.fullmatch(r"\w*", name, re.ASCII):
        raise DselectError(f"--name {name}: a component's name has letters, digits and _ alone")
    return corpus_definitions(Corpus.of_file(settings, str(path), name))
