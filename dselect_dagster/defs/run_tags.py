"""The tags of runs, by which the Runs page finds them.

The runs of one refresh share `dselect/refresh` and the job's name `refresh`. Every run says its source or recipe: those
that we start from the beginning, those of the automation sensor and of a person once they run, for Dagster takes only
fixed tags of them.
"""

import dagster as dg

from dselect_dagster.defs.namespace import Namespace

REFRESH = "dselect/refresh"
"""The refresh that a run is a part of. What a refresh may spend is counted over its runs."""

COMMAND = "dselect/command"
"""`refresh`: the run is of a command in the foreground."""

CAUSE = "dselect/cause"
"""Why a sensor or schedule started it."""

SOURCE, RECIPE = "dselect/source", "dselect/recipe"


def partition_tags(namespace: Namespace, partitions: dg.PartitionsDefinition | None, key: str | None) -> dict[str, str]:
    """The tag that says a run's source or recipe; none where the asset has no partitions."""
    if partitions is None or key is None:
        return {}
    return {SOURCE if partitions == namespace.source else RECIPE: key}


def tag_run(context: dg.AssetExecutionContext, tag: str, value: str) -> None:
    """Tag the run of a step that is under way, unless it has the tag."""
    if tag not in context.run.tags:
        context.instance.add_run_tags(context.run_id, {tag: value})
