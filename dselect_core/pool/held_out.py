"""The sources that are not chosen from, and the samples of the pool that are held out because of them (overlap.py).

Eval sources are what trials measure on; target sources are what a coreset is to be good at. What was found of a sample
stands as long as those sources do, so a new sample of the pool is compared alone.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import polars as pl

from dselect_core.corpus.raw_dataset import read_samples
from dselect_core.corpus.sample import SAMPLES
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.pool.overlap import REVISION, SCHEMA, EvalSamples, EvalTexts, source_of_reason
from dselect_core.settings.settings import Role
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A landed source. version: of its samples; samples: a SAMPLES frame, ascending by id."""

    name: str
    version: str
    samples: pl.DataFrame
    role: Role = "eval"


def eval_sets(workspace: Workspace, role: Role = "eval") -> list[EvalSet]:
    """The landed sources with that role, by name. A source that has not landed yet is not among them."""
    found = []
    for name in workspace.settings.sources_of(role):
        path = workspace.samples(name)
        if path.exists():
            version = read_metadata(path).get("version", "")
            found.append(EvalSet(name, version, read_samples(workspace, name).sort("sample_id"), role))
    return found


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The samples of a pool that cannot be chosen.

    rows: overlap.SCHEMA, by id. compared_with: version of the sources that they were compared with, and of the rule;
    None where there are no such sources. compared: rows whose texts were read for it, where the others were known.
    """

    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))
    compared_with: str | None = None
    compared: int = 0

    @property
    def version(self) -> str | None:
        """Hash of the samples and their reasons; None where nothing is held out."""
        return None if self.rows.is_empty() else digest([*self.rows["sample_id"], *self.rows["reason"]])

    @property
    def by_source(self) -> dict[str, int]:
        """{eval or target source: samples held out because of it}."""
        sources = self.rows["reason"].map_elements(source_of_reason, return_dtype=pl.String)
        return dict(sources.value_counts().sort("reason").iter_rows())


def find_held_out(
    ids: pl.DataFrame,
    sets: Collection[EvalSet],
    known: tuple[pl.DataFrame, HeldOut] | None,
    read_texts: Callable[[pl.DataFrame], Iterable[pl.DataFrame]],
) -> HeldOut:
    """What of a pool is held out.

    ids: sample_id of the pool. sets: the eval and target sources. known: the samples of an earlier pool, and what was
    held out of it. read_texts: samples → SAMPLES frames that hold them, in which one may stand several times.
    """
    if not sets:
        return HeldOut()
    ordered = sorted(sets, key=lambda each: (each.role, each.name))
    compared_with = fingerprint([REVISION, [[each.role, each.name, each.version] for each in ordered]])
    rows, new_ids = pl.DataFrame(schema=SCHEMA), ids.select("sample_id")
    if known is not None and known[1].compared_with == compared_with:
        rows = known[1].rows.join(ids, on="sample_id", how="semi")
        new_ids = new_ids.join(known[0], on="sample_id", how="anti")
    if new_ids.height:
        texts = EvalTexts(EvalSamples(each.name, each.samples, each.role == "eval") for each in sets)
        found = [texts.reasons(samples) for samples in read_texts(new_ids)]
        rows = pl.concat([rows, *found]).unique("sample_id")
    return HeldOut(rows.sort("sample_id"), compared_with, new_ids.height)


def landed_texts(workspace: Workspace, sources: Iterable[str]) -> Callable[[pl.DataFrame], Iterable[pl.DataFrame]]:
    """For `find_held_out`: the samples as they landed, one source in memory at a time."""

    def read_texts(ids: pl.DataFrame) -> Iterable[pl.DataFrame]:
        for name in sources:
            yield read_samples(workspace, name).join(ids, on="sample_id", how="semi")

    return read_texts


def held_out_sets(workspace: Workspace) -> list[EvalSet]:
    """The landed sources that are not chosen from."""
    return [*eval_sets(workspace, "eval"), *eval_sets(workspace, "target")]


def candidate_samples(workspace: Workspace, sources: Iterable[str]) -> pl.DataFrame:
    """SAMPLES of the landed sources that may be chosen, by id, each once: what the warm-up may see."""
    names = [name for name in sorted(sources) if workspace.settings.role_of(name) == "train"]
    names = [name for name in names if workspace.samples(name).exists()]
    tables = [pl.DataFrame(schema=SAMPLES), *(read_samples(workspace, name) for name in names)]
    samples = pl.concat(tables).unique("sample_id").sort("sample_id")
    held_out = find_held_out(samples, held_out_sets(workspace), None, lambda _: [samples])
    return samples.join(held_out.rows, on="sample_id", how="anti", maintain_order="left")
