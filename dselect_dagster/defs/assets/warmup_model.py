"""The target model: `warmup_model`, made by the warm-up or resolved from dselect.yaml."""

from typing import Any

import dagster as dg

from dselect_core.pool.corpus_index import needs_model
from dselect_core.pool.held_out import candidate_samples
from dselect_dagster.defs.automation_condition import once_there_is_data
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import with_clean_errors
from dselect_dagster.defs.run_policy import run_policy


def warmup_model(corpus: Corpus, code_version: str) -> dg.AssetsDefinition:
    """The asset that makes or resolves the target model."""

    @dg.asset(
        key=corpus.namespace.key("warmup_model"),
        deps=[corpus.namespace.key("raw_dataset")],
        group_name=corpus.namespace.prefixed("model"),
        kinds={"torch", "huggingface"},
        owners=corpus.settings.owners,
        code_version=code_version,
        automation_condition=once_there_is_data(corpus.namespace) if needs_model(corpus.settings) else None,
        **run_policy(corpus, "torch"),
        description=(
            "The model whose losses, states and neurons are the scores. The builtin one is tuned here on a small "
            "seeded part of the pool; any other is resolved, opened and identified by its weights. Pinned on purpose: "
            "new rows do not make another model. Materialise it by hand to tune on the pool of today."
        ),
    )
    @with_clean_errors
    def warmup_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.lm.target_model import make_target_model

        place = corpus.open()
        progress = RunProgress(context, "warmup_model")
        names = corpus.namespace.source.get_partition_keys(dynamic_partitions_store=context.instance)
        record = make_target_model(place, lambda: candidate_samples(place, names), progress)
        if record["template_is_fallback"]:
            context.log.warning(
                "the tokenizer has no chat template: "
                f"prompts are rendered with the named template {record['template']!r}"
            )
        shown: dict[str, Any] = {k: v for k, v in record.items() if k not in ("warmup", "provenance")}
        shown |= {f"warm-up {k}": v for k, v in record.get("warmup", {}).items()}
        shown["dtype"] = record["provenance"]["dtype"]
        shown["template_is_fallback"] = str(record["template_is_fallback"])
        return dg.MaterializeResult(
            data_version=dg.DataVersion(record["identity"]), metadata={**shown, "seconds": round(progress.seconds, 2)}
        )

    return warmup_model
