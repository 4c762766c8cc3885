"""Plan a refresh: ask the store, for the same recipes, the same question as the runs will.

Rows are exact wherever the answer exists before the run. Two things do not: the shots of rows that have no prompt
vector yet (estimates.py), and the recipes of a model that was never opened here (then every row counts as to be
computed). Estimates say so. Reading is all a plan does; sources that changed are read, in memory, to know their rows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from dselect_core.coreset.coreset import is_of, read_manifest
from dselect_core.corpus.raw_dataset import look
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lineage.cost_estimates import FOLLOWERS, SHOTS, judge_tokens, lengths
from dselect_core.lineage.plan import Plan, Rate, Step
from dselect_core.lm import target_model as current
from dselect_core.lm.load import IDENTITIES, identity
from dselect_core.neighbors.nearest import patchable, update
from dselect_core.pool.corpus_index import needed_kinds, read_index
from dselect_core.scores.provenance import BY_SOURCE, needs_model, open_store, recipe_of
from dselect_core.scores.score_table import read_head
from dselect_core.select.select import needs
from dselect_core.select.strategies import strategy
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet, read_with_metadata
from dselect_core.storage.score_store import Store

ASSETS: dict[str, tuple[str, ...]] = {
    "difficulty_scores": ("difficulty",),
    "embeddings": ("embeddings", "prompts"),
    "activations": ("activations",),
    "dependability_grades": ("grades",),
}
"""The assets made source by source, with the kinds of score each makes."""

Landing = Literal["new", "changed", "gone", "unreadable"]
_ASSET_OF = {kind: asset for asset, kinds in ASSETS.items() for kind in kinds}
_ORDER = (
    "raw_dataset",
    "coreset_spec",
    "warmup_model",
    *ASSETS,
    "corpus_index",
    "neighbors",
    "miwv_values",
    "candidates",
    "coreset",
)


@dataclass
class _Pool:
    """The samples as they would be after landing, per source: ids, and, where it was read, the text."""

    workspace: Workspace
    samples: dict[str, pl.DataFrame]
    moved: set[str]

    @cached_property
    def ids(self) -> pl.DataFrame:
        empty = pl.DataFrame(schema={"sample_id": pl.String})
        ids = [samples.select("sample_id") for samples in self.samples.values()]
        return pl.concat([empty, *ids]).unique().sort("sample_id")

    @cached_property
    def characters(self) -> pl.DataFrame:
        """sample_id, characters of all messages. Reads the texts, so only for rows that there are to compute."""
        parts = [pl.DataFrame(schema={"sample_id": pl.String, "characters": pl.Int64})]
        for name, samples in self.samples.items():
            whole = samples if "messages" in samples.columns else read_parquet(self.workspace.samples(name))
            content = pl.col("messages").list.eval(pl.element().struct.field("content").str.len_chars())
            parts.append(whole.select("sample_id", characters=content.list.sum().cast(pl.Int64)))
        return pl.concat(parts).unique("sample_id")


def make_plan(
    workspace: Workspace,
    landing: Mapping[str, Landing],
    recipes: Collection[str],
    sources: Collection[str],
    stale: Mapping[tuple[str, str | None], str],
    rates: Mapping[str, Rate],
) -> Plan:
    """The plan of a refresh.

    landing: sources that differ from what was last landed; recipes: those whose spec is new or changed; sources: all
    there are, with those that are gone; stale: what the orchestrator already calls stale or missing, and why; rates:
    of past runs, by asset.
    """
    return _Planner(workspace, stale, rates).plan(landing, recipes, sources)


class _Planner:
    def __init__(
        self, workspace: Workspace, stale: Mapping[tuple[str, str | None], str], rates: Mapping[str, Rate]
    ) -> None:
        self.workspace = workspace
        self.stale = stale
        self.rates = rates
        self.needed = needed_kinds(workspace.settings)
        self.steps: list[Step] = []
        self.lost: list[tuple[str, str]] = []
        self.problems: dict[str, str] = {}
        self.moved_kinds: set[str] = set()  # those with another value for some sample that was there before
        self._lengths: pl.DataFrame | None = None
        self.new_ids: dict[str, pl.DataFrame] = {}  # by kind: what the store lacks now

    def plan(self, landing: Mapping[str, Landing], recipes: Collection[str], sources: Collection[str]) -> Plan:
        pool = self._land(landing, sources)
        for recipe in sorted(recipes):
            self._add(Step("coreset_spec", recipe, "its recipe is new or changed"))
        model = self._model()
        self._row_local(pool, model)
        index_moves = bool(pool.moved or self.moved_kinds) or ("corpus_index", None) in self.stale
        if index_moves:
            self._add(Step("corpus_index", None, self._why("corpus_index", None, "rows or scores changed")))
        self._across_rows(pool, model, index_moves)
        self._selection(pool, set(recipes), index_moves)
        order = list(_ORDER)
        self.steps.sort(key=lambda step: order.index(step.asset))
        return Plan(self.steps, self.lost, self.problems)

    def _why(self, asset: str, partition: str | None, otherwise: str) -> str:
        return self.stale.get((asset, partition), otherwise)

    def _add(self, step: Step) -> None:
        rate = self.rates.get(step.asset)
        if rate is not None:
            rows, tokens = step.computed or 0, step.tokens or 0
            if tokens and rate.per_token is not None:
                step = replace(step, seconds=rate.per_run + tokens * rate.per_token)
            elif not rows:
                step = replace(step, seconds=rate.per_run)
            elif rate.per_row is not None:
                step = replace(step, seconds=rate.per_run + rows * rate.per_row)
        self.steps.append(step)

    def _land(self, landing: Mapping[str, Landing], sources: Collection[str]) -> _Pool:
        pool = _Pool(self.workspace, {}, set())
        for name in sorted(sources):
            held, version = self._landed(name)
            if name not in landing:
                if held is not None:
                    pool.samples[name] = held
                continue
            try:
                frame = look(self.workspace, name).select("sample_id", "messages")
            except DselectError as error:
                self.problems[name] = str(error)
                self._add(Step("raw_dataset", name, "cannot be read"))
                if held is not None:
                    pool.samples[name] = held
                continue
            pool.samples[name] = frame
            self._add(Step("raw_dataset", name, f"its files are {landing[name]}", computed=frame.height, reused=0))
            if digest(frame["sample_id"]) != version:
                pool.moved.add(name)
        return pool

    def _landed(self, source: str) -> tuple[pl.DataFrame | None, str | None]:
        try:
            samples, metadata = read_with_metadata(self.workspace.samples(source), ["sample_id"])
        except FileNotFoundError:
            return None, None
        return samples, metadata.get("version")

    def _model(self) -> dict[str, Any] | None:
        """The recipe of the model there will be; None where it can only be known once the model has been opened."""
        spec = self.workspace.settings.model
        try:
            record: dict[str, Any] = current.read_record(self.workspace)
        except DselectError:
            record = {}
        expected = record.get("identity")
        if spec.path != "builtin" and Path(spec.path).expanduser().is_dir():
            try:
                expected = identity(spec.path, spec.revision, IDENTITIES)
            except DselectError as error:
                self.problems["model"] = str(error)
        elif ("warmup_model", None) in self.stale:
            expected = None
        if ("warmup_model", None) in self.stale or not record or expected != record.get("identity"):
            self._add(Step("warmup_model", None, self._why("warmup_model", None, "the model is another one")))
        return None if expected is None else current.known_recipe(self.workspace, expected)

    def _store(self, kind: str, model: dict[str, Any] | None) -> Store | None:
        """The store of a kind under the recipe there will be; None where that recipe cannot be known yet."""
        if needs_model(self.workspace, kind) and model is None:
            return None
        return open_store(self.workspace, kind, fingerprint(recipe_of(self.workspace, kind, model)))

    def _counting(self, model: dict[str, Any] | None) -> Store | None:
        """The store that knows lengths in tokens, where some recipe has it made."""
        return self._store("difficulty", model) if "difficulty" in self.needed else None

    def _tokens(self, rows: pl.DataFrame, pool: _Pool, model: dict[str, Any] | None) -> int:
        """Tokens of the samples named in `rows`, one that is named twice counted twice."""
        if rows.is_empty():
            return 0
        if self._lengths is None:
            self._lengths = lengths(pool.characters, self._counting(model))
        return int(rows.join(self._lengths, on="sample_id")["tokens"].sum())

    def _judge_tokens(self, pool: _Pool, rows: pl.DataFrame) -> tuple[int, int] | None:
        spec, store = self.workspace.settings.grader, self._store("grades", None)
        return None if spec.is_builtin or store is None else judge_tokens(rows, pool.characters, spec, store)

    def _row_local(self, pool: _Pool, model: dict[str, Any] | None) -> None:
        todo: dict[tuple[str, str], int] = {}  # (kind, source): rows to compute
        runs: dict[tuple[str, str], str] = {}  # (kind, source): why its asset runs
        lacking: dict[tuple[str, str], pl.DataFrame] = {}
        for kind in (k for k in BY_SOURCE if k in self.needed):
            store = self._store(kind, model)
            ids = pool.ids
            missing = ids if store is None else store.missing(ids)
            absent = missing if store is None or store.retry is None else store.missing(ids, tried=False)
            self.new_ids[kind] = missing
            planned = pl.DataFrame(schema={"sample_id": pl.String})
            for name, samples in pool.samples.items():
                head = read_head(self.workspace.head(kind, name))
                mine = samples.select("sample_id").join(missing, on="sample_id", how="semi")
                if head is None:
                    why = "never made"
                elif store is None or head.fingerprint != store.fingerprint:
                    why = "its recipe changed"
                elif name in pool.moved:
                    why = "its rows changed"
                elif samples.join(absent, on="sample_id", how="semi").height:
                    why = "scores are gone from the store"
                    self.lost.append((_ASSET_OF[kind], name))
                elif (_ASSET_OF[kind], name) in self.stale:
                    why = self.stale[_ASSET_OF[kind], name]
                else:
                    continue
                runs[kind, name] = why
                if head is None:
                    other_values = name not in pool.moved  # a kind nobody read before; not a source nobody knew
                else:
                    other_values = store is None or head.fingerprint != store.fingerprint
                if other_values:
                    self.moved_kinds.add(kind)
                # A sample of several sources is computed for the first that runs, and found there by the others.
                mine = mine.join(planned, on="sample_id", how="anti")
                planned = pl.concat([planned, mine])
                lacking[kind, name] = mine
                todo[kind, name] = mine.height
        passed = {kind for kind in self.needed if kind in BY_SOURCE and kind != "grades"}
        for asset, kinds in ASSETS.items():
            for name, samples in pool.samples.items():
                made = [kind for kind in kinds if (kind, name) in runs]
                if not made:
                    continue
                computed = max(todo[kind, name] for kind in made)
                step = Step(asset, name, runs[made[0], name], computed, samples.height - computed)
                if asset == "dependability_grades":
                    step = replace(step, judge_tokens=self._judge_tokens(pool, lacking["grades", name]))
                else:
                    union = pl.concat(
                        [
                            lacking[k, name]
                            for k in sorted(passed)
                            if (k, name) in lacking and needs_model(self.workspace, k)
                        ]
                        or [pl.DataFrame(schema={"sample_id": pl.String})]
                    ).unique()
                    step = replace(step, tokens=self._tokens(union, pool, model))
                self._add(step)

    def _across_rows(self, pool: _Pool, model: dict[str, Any] | None, index_moves: bool) -> None:
        if "miwv" not in self.needed:
            return
        neighbors_run = index_moves or ("neighbors", None) in self.stale
        if not neighbors_run and ("miwv_values", None) not in self.stale:
            return
        size = pool.ids.height
        pairs, changed = self._pairs(pool, model) if neighbors_run else (self._assigned()[0], 0)
        if neighbors_run:
            exact = pairs is not None
            computed = min(size, changed)
            why = self._why("neighbors", None, "the pool changed" if pool.moved else "upstream changed")
            self._add(Step("neighbors", None, why, computed, size - computed, exact))
            if computed:
                self.moved_kinds.add("miwv")
        store = self._store("miwv", model)
        if store is None or pairs is None:
            missing, exact = (size, True) if store is None else (min(size, changed), False)
            # A sample of the mean length, and its share of a shot that runs once for all that are shown it.
            mean = self._tokens(pool.ids, pool, model) / max(1, size) if missing else 0
            tokens = int((1 + SHOTS) * missing * mean)
        else:
            rows = store.missing(pairs.select("sample_id", "shot_id"))
            missing, exact = rows.height, True
            shots = rows.select(sample_id="shot_id").drop_nulls().unique()
            tokens = self._tokens(rows, pool, model) + self._tokens(shots, pool, model)
        why = self._why("miwv_values", None, "shots or losses changed")
        self._add(Step("miwv_values", None, why, missing, size - missing, exact, tokens))
        if missing:
            self.moved_kinds.add("miwv")

    def _assigned(self) -> tuple[pl.DataFrame | None, dict[str, str]]:
        try:
            return read_with_metadata(self.workspace.neighbors)
        except FileNotFoundError:
            return None, {}

    def _pairs(self, pool: _Pool, model: dict[str, Any] | None) -> tuple[pl.DataFrame | None, int]:
        """The assignments there will be, where every prompt has its vector already, and how many rows they move."""
        before, seen = self._assigned()
        store, ids = self._store("prompts", model), pool.ids
        spec, prompts = self.workspace.settings.neighbors, None if store is None else [store.fingerprint]
        if before is None or seen.get("fingerprint") not in patchable(spec, ids.height, prompts):
            before = None
        new = ids if before is None else ids.join(before, on="sample_id", how="anti")
        gone = 0 if before is None else before.join(ids, on="sample_id", how="anti").height
        if before is not None and not new.height and not gone:
            return before, 0
        if store is not None and self.new_ids["prompts"].is_empty() and ids.height:
            vectors = store.read_array(ids)
            nprobe = spec.nprobe_for(ids.height)
            found = update(vectors.keys["sample_id"], vectors.values, before, nprobe=nprobe)
            if before is None:
                return found, found.height
            same = found.join(before, on=["sample_id", "shot_id"], how="semi", nulls_equal=True).height
            return found, found.height - same
        if before is None:
            return None, ids.height
        there = before.join(ids, on="sample_id", how="semi")
        orphans = there.join(ids.rename({"sample_id": "shot_id"}), on="shot_id", how="anti").height
        return None, new.height + orphans + round(FOLLOWERS * new.height)

    def _selection(self, pool: _Pool, recipes: set[str], index_moves: bool) -> None:
        settings = self.workspace.settings
        miwv_runs = any(step.asset == "miwv_values" for step in self.steps)
        for name, spec in settings.coresets.items():
            if not (index_moves or miwv_runs or name in recipes or ("candidates", name) in self.stale):
                if ("coreset", name) in self.stale:
                    self._coreset(name, pool, self.stale["coreset", name], keeps_order=True)
                continue
            self._add(Step("candidates", name, self._why("candidates", name, "upstream changed")))
            touched = needs(spec) & self.moved_kinds
            other_lengths = "difficulty" in self.needed and any(step.asset == "warmup_model" for step in self.steps)
            if pool.moved or touched or other_lengths:
                why = "rows changed" if pool.moved else f"scores changed: {', '.join(sorted(touched))}"
                self._coreset(name, pool, why, keeps_order=not self._ids_move(pool) and not touched)
            elif name in recipes or ("coreset", name) in self.stale:
                self._coreset(name, pool, self._why("coreset", name, "its recipe is new or changed"), keeps_order=True)

    def _ids_move(self, pool: _Pool) -> bool:
        try:
            return not pool.ids["sample_id"].equals(read_index(self.workspace).frame["sample_id"])
        except DselectError:
            return True

    def _coreset(self, name: str, pool: _Pool, why: str, *, keeps_order: bool) -> None:
        """Rows of the coreset: picked anew, or, where its order holds, only those beyond what is kept of it."""
        spec = self.workspace.settings.coresets[name]
        rows = spec.budget.rows(pool.ids.height)
        if rows is None:
            self._add(Step("coreset", name, why))
            return
        kept = self._kept_picks(name) if keeps_order else 0
        exact = not strategy(spec.strategy).ends_early
        self._add(Step("coreset", name, why, max(0, rows - kept), min(rows, kept), exact))

    def _kept_picks(self, name: str) -> int:
        """Picks of the order that this recipe's coreset was cut from, if the recipe still asks for that order."""
        spec, manifest = self.workspace.settings.coresets[name], read_manifest(self.workspace, name)
        if manifest is None or not is_of(manifest, spec):
            return 0
        try:
            return int(read_metadata(self.workspace.orders / f"{manifest['order']}.parquet")["picks"])
        except FileNotFoundError:
            return 0
