"""The component: one corpus in a team's own Dagster project, and what `dg scaffold` writes for it.

It is `definitions.py` for those who have a project already: the same graph, under a name of its own, without what a
code location has only one of (executor, resources). So several stand side by side, and beside anything else.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, Field, model_validator

from dselect_core.errors import DselectError
from dselect_core.settings.settings import check_settings, load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.graph import corpus_definitions
from dselect_dagster.defs.namespace import Namespace

CONFIG = "dselect.yaml"


class CurationParams(BaseModel):
    """What `dg scaffold defs dselect_dagster.Curation NAME` takes."""

    data: str = Field(description="folder of data files, or one file: one source a file or sub-folder")


class CurationScaffolder(dg.Scaffolder[CurationParams]):
    """Writes defs.yaml and, as `dselect init` does, a dselect.yaml for a folder of data files."""

    @classmethod
    def get_scaffold_params(cls) -> type[CurationParams]:
        """The options of the command."""
        return CurationParams

    def scaffold(self, request: dg.ScaffoldRequest[CurationParams]) -> None:
        """Read the data and write both files. Raises DselectError where there is no data, or a dselect.yaml already."""
        from dselect_core.corpus.starter_config import make_starter_config  # readers of files, which loading needs not

        if request.append or request.scaffold_format != "yaml":
            raise DselectError("a curation has a folder of its own, with defs.yaml: leave out --append and --format")
        folder = request.target_path.resolve()
        project = (request.project_root or folder).resolve()
        config = folder / CONFIG
        if config.exists():
            raise DselectError(f"{config} is there already; give another name, or remove it")
        name = re.sub(r"\W", "_", folder.name, flags=re.ASCII)
        # Not beside defs.yaml: the folder is code, which Dagster walks through and an image holds.
        storage = os.path.relpath(project / ".dselect" / name, folder)
        text, _, _ = make_starter_config(Path(request.params.data), folder, project=project, storage=storage)
        config.write_text(text, "utf-8")
        dg.scaffold_component(request, {"name": name, "config": CONFIG})


@dg.scaffold_with(CurationScaffolder)
class Curation(dg.Component, dg.Model, dg.Resolvable):
    """Chooses the best small part of an instruction-tuning corpus, and keeps the choice fresh.

    Sources land, are scored, and each recipe chooses a coreset: the asset `[name, coreset]`, one partition a recipe.
    The settings are those of dselect.yaml, in a file or in place.
    """

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_]*$",
            description="stands in front of asset keys, groups, sets of partitions, sensors, schedules and jobs",
            examples=["hr"],
        ),
    ] = ""
    config: Annotated[
        str | None, Field(description="file of the settings, by default dselect.yaml; relative to this one")
    ] = None
    settings: Annotated[
        dict[str, Any] | None, Field(description="the settings in place; paths are relative to this file's folder")
    ] = None
    automation: Annotated[
        Literal["stopped", "running"],
        Field(description="whether the sensors that land and make run where nobody switched them on or off"),
    ] = "stopped"

    @model_validator(mode="after")
    def _settings_lie_in_one_place(self) -> "Curation":
        if self.config is not None and self.settings is not None:
            raise ValueError("give either `config` (a file) or `settings` (in place), not both")
        return self

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """How lists of components show it."""
        return dg.ComponentTypeSpec(tags=["data-curation", "llm", "instruction-tuning"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The graph. Raises DselectError for settings that cannot be read."""
        # Of a defs.yaml it is the folder; of a Python file the file.
        folder = context.path if context.path.is_dir() else context.path.parent
        return corpus_definitions(self._corpus(folder))

    def _corpus(self, folder: Path) -> Corpus:
        runs = self.automation == "running"
        if self.settings is None:
            path = folder / (self.config or CONFIG)
            return Corpus.of_file(load_settings(path), str(path), self.name, runs, pools=True)
        written_in = f"`settings` in {folder / 'defs.yaml'}"
        settings = check_settings(self.settings, written_in, folder)
        return Corpus(settings, lambda: Workspace(settings), Namespace(self.name), written_in, runs, pools=True)
