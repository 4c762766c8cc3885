"""What comes in: `raw_dataset`, one partition a source."""

from typing import Any

import dagster as dg

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.corpus.sample import SAMPLES
from dselect_dagster.defs.asset_metadata import column_schema, markdown_table, path
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.known_partitions import known_source
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy


def raw_dataset(corpus: Corpus) -> dg.AssetsDefinition:
    """The asset that lands sources."""

    @dg.asset(
        key=corpus.namespace.key("raw_dataset"),
        partitions_def=corpus.namespace.source,
        group_name=corpus.namespace.prefixed("sources"),
        kinds={"polars", "parquet"},
        owners=corpus.settings.owners,
        code_version="1",
        **run_policy(corpus, reads_sources=True),
        description=(
            "The samples of one source in one schema: rows of any known shape read as messages, exact duplicates "
            "collapsed with every origin kept, bad rows in quarantine with a reason. Requested by `dselect refresh` "
            "or the sources sensor when the files change; a source taken out of dselect.yaml lands with zero rows."
        ),
        metadata={"dagster/column_schema": column_schema(SAMPLES, {"sample_id": "128-bit hash of the messages"})},
    )
    @with_clean_errors
    def raw_dataset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        source = known_source(corpus, place, context)
        progress = RunProgress(context, f"raw_dataset {source}")
        landed = land_source(place, source)
        progress(landed.row_counts["rows"], landed.row_counts["rows"])
        metadata: dict[str, Any] = {
            "dagster/partition_row_count": landed.row_counts["samples"],
            **landed.row_counts,
            "seconds": round(progress.seconds, 2),
            "signature": landed.signature,
            "origins": landed.origins,
            "path": path(place.samples(source)),
            "dagster/uri": clean(str(place.samples(source))),
        }
        if landed.ingested is not None:
            metadata["formats"] = ", ".join(landed.ingested.formats)
            metadata["files skipped"] = len(landed.ingested.skipped)
            if skipped := landed.ingested.skipped:
                metadata["files skipped, first names"] = ", ".join(skipped[:20])
            for name, reason in landed.ingested.bad_files.items():
                context.log.warning(f"left out, as `on_bad_file: skip` says: {name}: {reason}")
        if landed.quarantine.height:
            metadata["quarantine path"] = path(place.quarantine(source))
            metadata["quarantine by reason"] = markdown_table(
                landed.quarantine["reason"].value_counts(sort=True).head(20)
            )
            metadata["quarantine, first rows"] = markdown_table(
                landed.quarantine.select("file", "row", "reason", "excerpt").head(10)
            )
        return dg.MaterializeResult(data_version=dg.DataVersion(landed.version), metadata=metadata)

    return raw_dataset
