"""The sources that are not chosen from: what trials measure on, and what a coreset is to be good at."""

from dataclasses import dataclass

import polars as pl

from dselect_core.corpus.raw_dataset import read_samples
from dselect_core.settings.settings import Role
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A landed source. version: of its samples; samples: a SAMPLES frame, ascending by id."""

    name: str
    version: str
    samples: pl.DataFrame


def eval_sets(workspace: Workspace, role: Role = "eval") -> list[EvalSet]:
    """The landed sources with that role, by name. A source that has not landed yet is not among them."""
    found = []
    for name in workspace.settings.sources_of(role):
        path = workspace.samples(name)
        if path.exists():
            version = read_metadata(path).get("version", "")
            found.append(EvalSet(name, version, read_samples(workspace, name).sort("sample_id")))
    return found


def held_out_samples(workspace: Workspace) -> pl.DataFrame:
    """sample_id of the samples that are never chosen: those of eval and target sources."""
    ids = [pl.DataFrame(schema={"sample_id": pl.String})]
    ids += [each.samples.select("sample_id") for role in ("eval", "target") for each in eval_sets(workspace, role)]
    return pl.concat(ids).unique()
