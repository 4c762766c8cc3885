"""Partitions that the settings do not know are refused, with a sentence: the UI offers to add one to any dynamic set.

What a partition is, stands in the settings; its set follows them when something lands. One that was only added would
otherwise make an empty source, or fail somewhere below with a name that nothing explains.
"""

import dagster as dg

from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs import run_tags
from dselect_dagster.defs.changed_inputs import last_record
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.run_errors import clean
from dselect_dagster.defs.run_tags import tag_run

_REMEDY = (
    "A partition that is only added here means nothing: {edit}, and run `dselect refresh` or the sensor `{sensor}`. "
    "They make its partition, and take this one out."
)


def known_source(corpus: Corpus, workspace: Workspace, context: dg.AssetExecutionContext) -> str:
    """The source that a run is of; tags the run with it.

    Raises dg.Failure for one that is not in the settings and never landed. One that has landed and is gone from the
    settings is known: it lands empty, and what follows it is empty too.
    """
    source: str = context.partition_key
    if source not in workspace.settings.sources:
        raw_dataset = corpus.namespace.key("raw_dataset")
        if last_record(context.instance, raw_dataset, source) is None:
            names = ", ".join(workspace.settings.sources)
            raise _refusal(corpus, f"no source {source!r} in {corpus.written_in}; there are: {names}", "`sources`")
    tag_run(context, run_tags.SOURCE, source)
    return source


def known_recipe(
    corpus: Corpus,
    workspace: Workspace,
    context: dg.AssetExecutionContext,
    of: dg.DynamicPartitionsDefinition | None = None,
) -> str:
    """The recipe that a run is of; tags the run with it.

    of: the set of partitions that it has to be in; by default that of all recipes.
    Raises dg.Failure for one that the settings do not have, or that has no trial, or no such round.
    """
    recipe: str = context.partition_key
    recipes = workspace.settings.coresets
    if recipe not in recipes:
        what = f"no recipe {recipe!r} in {corpus.written_in}; there are: {', '.join(recipes)}"
        raise _refusal(corpus, what, "`coresets`")
    if of is not None and recipe not in corpus.namespace.recipes_of(workspace.settings)[of]:
        names = corpus.namespace
        has_no = {names.trial: "`trial: true`", names.publication: "place in `publish`"}.get(of, "so many `rounds`")
        raise _refusal(corpus, f"the recipe {recipe!r} in {corpus.written_in} has no {has_no}", f"`coresets.{recipe}`")
    tag_run(context, run_tags.RECIPE, recipe)
    return recipe


def _refusal(corpus: Corpus, what: str, key: str) -> dg.Failure:
    sensor = corpus.namespace.prefixed("sources_and_recipes")
    remedy = _REMEDY.format(edit=f"write it under {key} there", sensor=sensor)
    # Trying again changes nothing.
    return dg.Failure(clean(f"{what}. {remedy}"), allow_retries=False)
