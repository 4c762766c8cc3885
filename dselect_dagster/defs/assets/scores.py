"""Scores that are made source by source, one partition a source: an asset for each that some kind of score names.

Assets with a kind that comes from the forward pass are one multi-asset: asked for together they cost one pass, asked
for alone only what is asked for. Every other asset is made by itself.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import FromForwardPass, FromSamples, Kind, kinds_by_asset
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.agreement_metadata import agreement_metadata
from dselect_dagster.defs.asset_metadata import columns_of_kinds, tables_metadata
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.known_partitions import known_source
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import with_clean_errors
from dselect_dagster.defs.run_policy import Tool, run_policy
from dselect_dagster.defs.run_tags import REFRESH


def score_assets(corpus: Corpus, needed: frozenset[str], code_versions: dict[str, str]) -> list[dg.AssetsDefinition]:
    """The assets of all kinds that are made source by source. needed: names of the kinds that some recipe reads."""
    by_asset = kinds_by_asset(corpus.settings, by_source=True)
    from_pass = {
        asset: kinds
        for asset, kinds in by_asset.items()
        if any(isinstance(kind.computed_by(corpus.settings), FromForwardPass) for kind in kinds)
    }
    specs = [_spec(asset, kinds, corpus, needed, code_versions[asset]) for asset, kinds in from_pass.items()]
    forward_pass = [_score_asset(corpus, "score_source", specs, from_pass, needed)] if specs else []
    apart = [
        _score_asset(corpus, asset, [_spec(asset, kinds, corpus, needed, code_versions[asset])], {asset: kinds}, needed)
        for asset, kinds in by_asset.items()
        if asset not in from_pass
    ]
    return [*forward_pass, *apart]


def _spec(
    asset: str, kinds: tuple[Kind, ...], corpus: Corpus, needed: frozenset[str], code_version: str
) -> dg.AssetSpec:
    settings = corpus.settings
    reads_model = any(kind.reads_model(settings) for kind in kinds)
    is_needed = any(kind.name in needed for kind in kinds)
    return dg.AssetSpec(
        corpus.namespace.key(asset),
        deps=corpus.namespace.keys("raw_dataset", *(["warmup_model"] if reads_model else [])),
        group_name=corpus.namespace.prefixed("scores"),
        kinds={tool_of(settings, kinds), "parquet"},
        owners=corpus.settings.owners,
        description=" ".join(kind.described(settings) for kind in kinds),
        code_version=code_version,
        automation_condition=on_input_change(corpus.namespace) if is_needed else None,
        partitions_def=corpus.namespace.source,
        skippable=True,
        metadata={"dagster/column_schema": columns_of_kinds(kinds)},
    )


def tool_of(settings: Settings, kinds: Sequence[Kind]) -> Tool:
    """What computes the kinds, as the UI shows it."""
    computations = [kind.computed_by(settings) for kind in kinds]
    if any(
        isinstance(computation, FromForwardPass) or (isinstance(computation, FromSamples) and computation.runs_model)
        for computation in computations
    ):
        return "torch"
    paid = any(isinstance(computation, FromSamples) and computation.paid for computation in computations)
    return "openai" if paid else "polars"


def _score_asset(
    corpus: Corpus, name: str, specs: list[dg.AssetSpec], kinds_of: dict[str, tuple[Kind, ...]], needed: frozenset[str]
) -> dg.AssetsDefinition:
    tool = tool_of(corpus.settings, [kind for kinds in kinds_of.values() for kind in kinds])

    @dg.multi_asset(
        specs=specs,
        can_subset=len(specs) > 1,
        name=corpus.namespace.prefixed(name),
        **run_policy(corpus, tool),
    )
    @with_clean_errors
    def score_source(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        from dselect_core.graders.spend import Purpose
        from dselect_core.scores.compare_grades import agreements_of
        from dselect_core.scores.update import KindsNotComputedError, update_scores

        place = corpus.open()
        source = known_source(corpus, place, context)
        # Of an asset that no recipe reads, and that was asked for by hand, all kinds.
        names_by_key = {}
        for key in sorted(context.selected_asset_keys):
            names = frozenset(kind.name for kind in kinds_of[corpus.namespace.asset(key)])
            names_by_key[key] = names & needed or names
        all_names = frozenset[str]().union(*names_by_key.values())
        progress = RunProgress(context, f"{', '.join(sorted(all_names))} of {source}")
        failure: KindsNotComputedError | None = None
        try:
            purpose = Purpose(context.run.tags.get(REFRESH, context.run_id), source)
            reports = update_scores(place, source, all_names, progress, purpose)
        except KindsNotComputedError as error:
            # What was computed is made all the same; then the step fails with the message.
            reports, failure = error.reports, error
        for key, names in names_by_key.items():
            if not names <= reports.keys():
                continue
            of_asset = {kind: reports[kind] for kind in sorted(names)}
            pairs = agreements_of(place, source, of_asset)
            versions = [report.version for report in of_asset.values()]
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(fingerprint(versions)),
                metadata={
                    **tables_metadata(context, of_asset, progress.seconds, partition=True),
                    **agreement_metadata(pairs),
                },
            )
        if failure is not None:
            raise failure

    return score_source
