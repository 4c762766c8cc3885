"""Row-local scores, one partition a source: one forward pass for three of them; grades apart."""

from collections.abc import Iterator

import dagster as dg

from dselect_core.fingerprint import fingerprint
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.asset_metadata import tables_metadata
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.partitions import SOURCE
from dselect_dagster.defs.progress_log import Progress
from dselect_dagster.defs.resources import WorkspaceResource

# Asset → the kinds of score it makes, by the names they have in the storage.
KINDS: dict[str, frozenset[str]] = {
    "difficulty_scores": frozenset({"difficulty"}),
    "embeddings": frozenset({"embeddings", "prompts"}),
    "activations": frozenset({"activations"}),
    "dependability_grades": frozenset({"grades"}),
    "miwv_values": frozenset({"miwv"}),
}
_DESCRIPTIONS = {
    "difficulty_scores": "UPD, loss and mean entropy of each response for the target model (D3, arXiv 2503.11441).",
    "embeddings": "Mean-pooled vectors: of the whole sample from the model; of the prompt from it or a named encoder.",
    "activations": "Active neurons of each layer on the prompt (MADS, arXiv 2605.30857; our reading of its abstract).",
}


def score_source(settings: Settings, needed: frozenset[str], code_versions: dict[str, str]) -> dg.AssetsDefinition:
    """The three scores of the target model. Asked for together they cost one forward pass."""

    def spec(name: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            name,
            deps=["raw_dataset", "warmup_model"],
            group_name="scores",
            kinds={"torch", "parquet"},
            owners=settings.owners,
            description=_DESCRIPTIONS[name],
            code_version=code_versions[name],
            automation_condition=on_input_change() if KINDS[name] & needed else None,
            partitions_def=SOURCE,
            skippable=True,
        )

    @dg.multi_asset(specs=[spec(name) for name in _DESCRIPTIONS], can_subset=True, name="score_source")
    def score_source(context: dg.AssetExecutionContext, workspace: WorkspaceResource) -> Iterator[dg.MaterializeResult]:
        from dselect_core.scores.update import update_model_scores

        # Of an asset that no recipe reads, and that was asked for by hand, all kinds.
        asked = {key: KINDS[key.to_user_string()] for key in sorted(context.selected_asset_keys)}
        kinds = {key: made & needed or made for key, made in asked.items()}
        union = frozenset().union(*kinds.values())
        progress = Progress(context, f"{', '.join(sorted(union))} of {context.partition_key}")
        reports = update_model_scores(workspace.open(), context.partition_key, union, progress)
        for key, made in kinds.items():
            of_asset = {kind: reports[kind] for kind in sorted(made)}
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(fingerprint([report.version for report in of_asset.values()])),
                metadata=tables_metadata(context, of_asset, progress.seconds, partition=True),
            )

    return score_source


def dependability_grades(settings: Settings, needed: frozenset[str], code_version: str) -> dg.AssetsDefinition:
    @dg.asset(
        deps=["raw_dataset"],
        partitions_def=SOURCE,
        group_name="scores",
        kinds={"polars" if settings.grader.is_builtin else "openai", "parquet"},
        owners=settings.owners,
        code_version=code_version,
        automation_condition=on_input_change() if "grades" in needed else None,
        description=(
            "Correctness, helpfulness and reliability of each response (D3's dependability), by "
            + (
                "the builtin heuristic grader, which is no LLM and says so in every record."
                if settings.grader.is_builtin
                else f"{settings.grader.model} behind an OpenAI-compatible endpoint."
            )
        ),
    )
    def dependability_grades(context: dg.AssetExecutionContext, workspace: WorkspaceResource) -> dg.MaterializeResult:
        from dselect_core.scores.update import update_grades

        progress = Progress(context, f"grades of {context.partition_key}")
        report = update_grades(workspace.open(), context.partition_key, progress)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.version),
            metadata=tables_metadata(context, {"grades": report}, progress.seconds, partition=True),
        )

    return dependability_grades
