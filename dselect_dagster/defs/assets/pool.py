"""What looks across rows: the index of the pool, each row's neighbour, MIWV. Unpartitioned on purpose.

Dagster stops tracking staleness across an edge of 100 partitions, so everything corpus-wide hangs on the
index, which is one asset however many sources there are.
"""

from typing import Any

import dagster as dg
import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import Kind, assets_making, kinds_by_asset
from dselect_core.neighbors.nearest import SCHEMA as NEIGHBORS
from dselect_core.pool.corpus_index import SCHEMA, Index, build_index, needs_neighbors, read_index, target_kinds
from dselect_core.pool.overlap import short_reason
from dselect_core.redact import redact_all
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.asset_metadata import column_schema, columns_of_kinds, markdown_table, tables_metadata
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy

_NEIGHBOR_COLUMNS = {
    "sample_id": "the sample",
    "shot_id": "the nearest other sample of the pool; null where there is none",
    "similarity": "cosine of the two prompts",
}
_INDEX_COLUMNS = {"sample_id": "128-bit hash of the messages", "sources": "sources that hold the sample"}


def corpus_index(corpus: Corpus, needed: frozenset[str]) -> dg.AssetsDefinition:
    """The asset that lists the pool. needed: kinds of score that some recipe reads."""
    by_source = assets_making(needed, by_source=True)
    settings = corpus.settings

    @dg.asset(
        key=corpus.namespace.key("corpus_index"),
        # Not on raw_dataset beside the scores: both would be asked for at once, and the index made too early.
        deps=corpus.namespace.keys(*(by_source or ["raw_dataset"])),
        group_name=corpus.namespace.prefixed("pool"),
        kinds={"polars", "parquet"},
        owners=corpus.settings.owners,
        # The kinds that make a source complete are part of what this asset does, and so are the roles of sources.
        code_version="-".join(["1", *sorted(needed), *_roles_version(settings), *_targets_version(settings)]),
        **run_policy(corpus),
        automation_condition=on_input_change(corpus.namespace, allow_missing_deps=True),
        description=(
            "The pool: the samples of every complete source, once each, and the versions of their score tables. "
            "Sources that lack a score are left out and listed. Eval and target sources are never in it, and what the "
            "pool shares with them is held out, with the reason."
        ),
        metadata={"dagster/column_schema": column_schema(SCHEMA, _INDEX_COLUMNS)},
    )
    @with_clean_errors
    def corpus_index(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.scores.forward_scores import uncomputable_kinds

        progress = RunProgress(context, "corpus_index")
        names = sorted(corpus.namespace.source.get_partition_keys(dynamic_partitions_store=context.instance))
        place = corpus.open()
        absent = uncomputable_kinds(place)
        index = build_index(place, names, needed - absent.keys())
        progress(index.frame.height, index.frame.height)
        metadata: dict[str, Any] = {
            "dagster/row_count": index.frame.height,
            "sources": len(index.sources),
            "sources excluded": len(index.excluded),
            "samples in several sources": int((index.frame["sources"].list.len() > 1).sum()),
            "seconds": round(progress.seconds, 2),
        }
        for kind, reason in absent.items():
            if kind in needed:
                context.log.warning(f"no source has {kind}: {reason}")
        if index.excluded:
            metadata["excluded"] = dg.MetadataValue.json(redact_all(index.excluded))
            context.log.warning(clean(f"left out of the pool: {index.excluded}"))
        if index.targets:
            metadata["target sources"] = len(index.targets)
        if index.held_out.compared_with is not None:
            metadata |= _of_held_out(index)
        counts = index.frame.explode("sources")["sources"].value_counts(sort=True)
        metadata["samples by source"] = markdown_table(counts)
        return dg.MaterializeResult(data_version=dg.DataVersion(index.version), metadata=metadata)

    return corpus_index


def _roles_version(settings: Settings) -> list[str]:
    """Empty where every source is chosen from."""
    roles = {name: spec.role for name, spec in sorted(settings.sources.items()) if spec.role != "train"}
    return [fingerprint(roles)[:12]] if roles else []


def _targets_version(settings: Settings) -> list[str]:
    """Empty where no recipe compares with target sources."""
    return [f"targets:{kind}" for kind in sorted(target_kinds(settings))]


def _of_held_out(index: Index) -> dict[str, Any]:
    """What of the pool is held out, by reason and by eval source."""
    rows = index.held_out.rows
    shown: dict[str, Any] = {"held out": rows.height, "rows compared with eval sources": index.held_out.compared}
    if rows.height:
        reasons = rows["reason"].map_elements(short_reason, return_dtype=pl.String)
        by_source = pl.DataFrame(list(index.held_out.by_source.items()), schema=["source", "rows"], orient="row")
        shown |= {
            "held out by reason": markdown_table(reasons.value_counts(sort=True)),
            "held out by source": markdown_table(by_source),
            "held out, first rows": markdown_table(rows.head(10)),
        }
    return shown


def neighbors(corpus: Corpus, code_version: str) -> dg.AssetsDefinition:
    """The asset that finds each sample's nearest other sample, due where pair scores or near-duplicates read it."""

    @dg.asset(
        key=corpus.namespace.key("neighbors"),
        deps=[corpus.namespace.key("corpus_index")],
        group_name=corpus.namespace.prefixed("pool"),
        kinds={"numpy", "parquet"},
        owners=corpus.settings.owners,
        code_version=code_version,
        **run_policy(corpus),
        automation_condition=on_input_change(corpus.namespace) if needs_neighbors(corpus.settings) else None,
        metadata={"dagster/column_schema": column_schema(NEIGHBORS, _NEIGHBOR_COLUMNS)},
        description=(
            "The nearest other sample of each sample by cosine over prompts: MIWV's shot. Its data version hashes the "
            "assignments, so what follows moves only when a neighbour does."
        ),
    )
    @with_clean_errors
    def neighbors(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.neighbors.update_neighbors import update_neighbors

        place = corpus.open()
        progress = RunProgress(context, "neighbors")
        report = update_neighbors(place, read_index(place), progress)
        context.log.info(clean(", ".join(f"{name}: {figure}" for name, figure in report.figures.items())))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.version),
            metadata=tables_metadata(context, {"neighbors": report}, progress.seconds),
        )

    return neighbors


def pair_score_assets(
    corpus: Corpus, needed: frozenset[str], code_versions: dict[str, str]
) -> list[dg.AssetsDefinition]:
    """The assets of all kinds of score that are made for samples with their shots (miwv_values)."""
    by_asset = kinds_by_asset(by_source=False)
    return [_pair_scores(asset, kinds, corpus, needed, code_versions[asset]) for asset, kinds in by_asset.items()]


def _pair_scores(
    asset: str, kinds: tuple[Kind, ...], corpus: Corpus, needed: frozenset[str], code_version: str
) -> dg.AssetsDefinition:
    names = [kind.name for kind in kinds]

    @dg.asset(
        key=corpus.namespace.key(asset),
        # The zero-shot losses and the texts are reached through the index; the pairs are the neighbours'.
        deps=corpus.namespace.keys("corpus_index", "neighbors", "warmup_model"),
        group_name=corpus.namespace.prefixed("pool"),
        kinds={"torch", "parquet"},
        owners=corpus.settings.owners,
        code_version=code_version,
        **run_policy(corpus, "torch"),
        automation_condition=on_input_change(corpus.namespace) if needed & set(names) else None,
        description=" ".join(kind.described(corpus.settings) for kind in kinds),
        metadata={"dagster/column_schema": columns_of_kinds(kinds)},
    )
    @with_clean_errors
    def pair_scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.scores.update_pairs import update_pairs

        place = corpus.open()
        progress = RunProgress(context, ", ".join(names))
        index = read_index(place)
        reports = {name: update_pairs(place, name, index, progress) for name in names}
        versions = [report.version for report in reports.values()]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(versions[0] if len(versions) == 1 else fingerprint(versions)),
            metadata=tables_metadata(context, reports, progress.seconds),
        )

    return pair_scores
