"""What the commands print: plans, reports of a refresh, coresets, the story of a sample. No decision is made here."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.corpus.sample import message_text
from dselect_core.kinds import TO_REPEAT, TRIED_AGAIN
from dselect_core.lineage.plan import Plan, Step
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.compare import (
    Compared,
    against_random_text,
    eval_sources,
    interval_line,
    multiplier_text,
    on_tasks,
    scale_of,
)
from dselect_core.trials.report import ALL
from dselect_core.trials.standing import standing
from dselect_dagster.cli.console import out, styled
from dselect_dagster.cli.money import grades_to_buy, judge_name, price_note

if TYPE_CHECKING:
    from dselect_core.lineage.explain import Score, Story
    from dselect_dagster.defs.changed_inputs import ChangedInput, ChangedInputs
    from dselect_dagster.refresh.refresh import RefreshResult

# More partitions of one asset than this are summed up in one line of a plan.
MAX_LISTED_PARTITIONS = 12


def print_changed_inputs(changed_inputs: "ChangedInputs") -> None:
    """A line for each source and recipe that is to land or gone."""
    for change in changed_inputs.changes:
        out.print(styled(f"{kind_of_input(change)} ", (change.partition, "bold"), f": {change.state}"))
    for name in changed_inputs.gone_recipes:
        out.print(styled("recipe ", (name, "bold"), ": gone; its files stay where they are"))


def kind_of_input(change: "ChangedInput") -> str:
    """`source` or `recipe`, as dselect.yaml calls it."""
    return "source" if change.asset == "raw_dataset" else "recipe"


def asset_partition(asset: str, partition: str | None) -> str:
    """`difficulty_scores[tasks]`; the asset alone where it has no partitions."""
    return f"{asset}[{partition}]" if partition else asset


def print_plan(plan: Plan, settings: Settings) -> None:
    """What cannot be read, then a row for each step, then the sum."""
    for name, problem in plan.problems.items():
        out.print(styled((name, "red"), f": {problem}"), soft_wrap=True)
    if not plan.steps and not plan.lost:
        out.print("Nothing to do.")
        return
    right = (Column(n, justify="right") for n in ("to compute", "to reuse", "tokens", "seconds"))
    table = Table("would make", "partition", *right, "why", box=box.SIMPLE)
    steps_by_asset: dict[str, list[Step]] = defaultdict(list)
    for step in plan.steps:
        steps_by_asset[step.asset].append(step)
    for asset, steps in steps_by_asset.items():
        for step in steps if len(steps) <= MAX_LISTED_PARTITIONS else [_sum_of_steps(asset, steps)]:
            about = "" if step.exact else "≈"
            computed = "" if step.computed is None else f"{about}{step.computed:,}"
            reused = "" if step.reused is None else f"{about}{step.reused:,}"
            step_tokens = step.tokens or step.grader_tokens
            tokens = f"≈{step_tokens:,}" if step_tokens else ""
            seconds = "" if step.seconds is None else f"≈{step.seconds:,.1f}"
            why = "; ".join(filter(None, (step.why, step.note)))
            table.add_row(asset, step.partition or "", computed, reused, tokens, seconds, why)
    out.print(table)
    for step in plan.steps:
        if step.grades is not None:
            out.print(styled((step.asset, "bold"), f": {grades_to_buy(step.grades, settings)}"), soft_wrap=True)
    out.print(f"{len(plan.steps)} asset partitions; {_cost_of_plan(plan, settings)}")


def _sum_of_steps(asset: str, steps: list[Step]) -> Step:
    def total(name: str) -> Any:
        values = [value for step in steps if (value := getattr(step, name)) is not None]
        return sum(values) if values else None

    return Step(
        asset,
        f"{len(steps)} partitions",
        "; ".join(sorted({step.why for step in steps})),
        total("computed"),
        total("reused"),
        all(step.exact for step in steps),
        total("tokens"),
        grader_tokens=total("grader_tokens"),
        seconds=total("seconds"),
        note="; ".join(sorted({step.note for step in steps} - {""})),
    )


def _cost_of_plan(plan: Plan, settings: Settings) -> str:
    costs = [f"about {plan.tokens:,} tokens through the model" if plan.tokens else "no token through the model"]
    if plan.evaluations:
        costs.append(f"{plan.evaluations:,} evaluations of models on held-out rows and tasks")
    for judge, bought in plan.bought.items():
        if not bought.prompt_tokens:
            continue
        spec, usd = settings.grader_of(judge), plan.usd_of(judge, settings)
        note = price_note(spec)
        price = note if usd is None else f"about ${usd:,.2f}" + ("" if note is None else f", {note}")
        if usd is not None and spec.max_usd is not None and usd > spec.max_usd:
            price = f"{price}; a refresh stops at {spec.key}.max_usd ${spec.max_usd:g}"
        tokens = f"about {bought.prompt_tokens:,} + {bought.completion_tokens:,} tokens"
        costs.append(f"{tokens} of {judge_name(spec)} ({price})")
    if plan.grader_tokens:
        local = settings.grader
        what = "graders that run here" if settings.graders else "judge" if local.judge is not None else "reward model"
        costs.append(f"about {plan.grader_tokens:,} tokens through the {what}")
    seconds = plan.seconds
    costs.append(
        "seconds unknown: not everything has run here before" if seconds is None else f"about {seconds:,.0f} s"
    )
    return "; ".join(costs)


def print_result(result: "RefreshResult", seconds: float) -> None:
    """What a refresh made, with its figures, what failed, and what is still stale."""
    if not result.runs:
        out.print(f"Nothing to do ({seconds:.1f} s).")
    else:
        right = (Column(n, justify="right") for n in ("rows", "computed", "reused", "nulls", "seconds"))
        table = Table("made", "partition", *right, box=box.SIMPLE)
        for made, of_partition, *figures in made_rows(result):
            table.add_row(made, of_partition or "", *("" if value is None else _figure(value) for value in figures))
        out.print(table)
        out.print(f"{len(result.runs)} runs in {seconds:.1f} s; `dselect dev` shows them.")
        for run in result.runs:
            for materialization in run.materializations:
                _print_what_did_not_land(materialization.partition, materialization.metadata)
    for run in result.failed:
        for step, message in run.errors.items():
            out.print(styled(("failed", "red"), f" {step}" + (f" [{run.partition}]" if run.partition else "")))
            out.print(message, soft_wrap=True)
    if result.broken_off is not None:
        out.print(styled(("broken off", "red"), f": {result.broken_off}"), soft_wrap=True)
    for stale in result.still_stale:
        out.print(f"not made: {asset_partition(stale.asset.to_user_string(), stale.partition)}: {stale.why}")
    for (asset, partition), why in result.still_lost.items():
        name = asset_partition(asset.to_user_string(), partition)
        if why.endswith((TRIED_AGAIN, TO_REPEAT)):
            out.print(f"not complete: {name}: {why} by the next refresh", soft_wrap=True)
        else:
            out.print(f"not restored: {name}: {why}", soft_wrap=True)
    for recipe, why in result.held_back.items():
        out.print(styled("coreset ", (recipe, "bold"), " is ", ("held back", "red"), f": {why}"), soft_wrap=True)
    for source, why in result.left_out.items():
        out.print(styled("source ", (source, "bold"), f" is left out of the pool: {why}"), soft_wrap=True)
    if result.still_stale and not result.failed:
        out.print("Their inputs are not ready, or runs of them are queued or under way elsewhere.")


def made_rows(result: "RefreshResult") -> Iterator[tuple[str, str | None, Any, Any, Any, Any, Any]]:
    """(asset, partition, rows, computed, reused, nulls, seconds) of all that was made; None where it counts no such."""
    of_work = ("rows computed", "runs tuned"), ("rows reused", "runs reused"), ("nulls",), ("seconds",)
    for run in result.runs:
        for made in run.materializations:
            figures = {name: value.value for name, value in made.metadata.items()}
            rows = figures.get("dagster/partition_row_count", figures.get("dagster/row_count"))
            computed, reused, nulls, seconds = (
                next((figures[k] for k in names if k in figures), None) for names in of_work
            )
            yield made.asset_key.to_user_string(), made.partition, rows, computed, reused, nulls, seconds


def _print_what_did_not_land(source: str | None, metadata: Mapping[str, Any]) -> None:
    """What a source has and the corpus has not, where the asset says so."""
    figures = {name: value.value for name, value in metadata.items()}
    parts = []
    if bad_files := figures.get("bad files"):
        parts.append(f"{bad_files:,} bad files left out")
    if quarantined := figures.get("quarantined"):
        parts.append(f"{quarantined:,} of {figures['rows']:,} rows in quarantine")
    if skipped := figures.get("files skipped"):
        parts.append(f"{skipped:,} files not read, for their names are not those of data files")
    if parts:
        path = figures.get("quarantine path")
        where = f"; see {short_path(str(path))}" if path else ""
        out.print(styled(("not landed", "yellow"), f" of source {source}: {', '.join(parts)}{where}"), soft_wrap=True)


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def print_coresets(workspace: Workspace, recipes: list[str]) -> None:
    """A row for each recipe: what its coreset holds, how it does against random where it is tried, and where it is."""
    right = (Column(n, justify="right") for n in ("rows", "of pool", "tokens", "entered", "left"))
    is_any_tried = any(workspace.settings.coresets[name].trial for name in recipes)
    path = Column("path", overflow="fold")
    against_column = ["against random"] if is_any_tried else []
    table = Table("coreset", "recipe", *right, *against_column, path, box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in recipes:
        spec, folder = workspace.settings.coresets[name], workspace.coreset(name)
        recipe = f"{spec.strategy}, {spec.budget}"
        manifest = readable_manifest(workspace, name)
        if manifest is None:
            table.add_row(name, recipe, "not made")
            continue
        figures = [_figure(manifest["counts"].get(key, "")) for key in ("rows", "pool", "response_tokens")]
        changes = manifest.get("changes", {"entered": {}, "left": {}})
        figures += [_figure(sum(changes[direction].values())) for direction in ("entered", "left")]
        against = [_against_random(workspace, name)] if is_any_tried else []
        table.add_row(name, recipe, *figures, *against, short_path(str(folder)))
    out.print(table)


def _against_random(workspace: Workspace, recipe: str) -> str:
    if not workspace.settings.coresets[recipe].trial:
        return ""
    tried = standing(workspace, recipe)
    return against_random_text(tried.report) if tried.report is not None and tried.holds else tried.why


def print_comparison(compared: list[Compared]) -> None:
    """A row for each recipe, best against random first, with its interval drawn; random is in the middle."""
    if not compared:
        out.print("No recipe is tried. Give one `trial: true` in dselect.yaml, and a source `role: eval`.")
        return
    sources = eval_sources(compared)
    losses = (Column("mean loss" if name == ALL else f"loss {name}", justify="right") for name in sources)
    right = (Column(name, justify="right") for name in ("rows", "tokens"))
    table = Table("coreset", "recipe", *right, *losses, "better than random by", "worth", box=box.SIMPLE)
    scale = scale_of(compared)
    for each in compared:
        sizes = ["" if value is None else f"{value:,}" for value in (each.rows, each.tokens)]
        values = ["" if (value := each.loss(name)) is None else f"{value:.4f}" for name in sources]
        against = "not tried" if each.report is None else against_random_text(each.report)
        worth = "" if each.report is None else multiplier_text(each.report)
        table.add_row(each.recipe, f"{each.strategy}, {each.budget}", *sizes, *values, against, worth)
    out.print(table)
    drawn = [each for each in compared if each.report is not None]
    width = max((len(each.recipe) for each in drawn), default=0)
    for each in drawn:
        assert each.report is not None
        out.print(f"{each.recipe:<{width}}  {interval_line(each.report, scale)}")
    if drawn:
        axis = f"{'worse':<15}┆{'better':>15}"
        out.print(f"{'':<{width}}  {axis}  ┆ random, 95% intervals; the axis ends at {scale:.4f} nats a token")
    if scored := on_tasks(compared):
        right = (Column(name, justify="right") for name in ("coreset mean", "random mean"))
        table = Table("coreset", "task", "metric", *right, "better than random by", box=box.SIMPLE)
        for on_task in scored:
            means = [f"{value:.4f}" for value in (on_task.coreset, on_task.random)]
            table.add_row(on_task.recipe, on_task.task, on_task.metric, *means, on_task.against_random_text)
        out.print(table)
    for each in compared:
        if each.report is not None:
            out.print(styled((each.recipe, "bold"), f": {each.report.against_random.sentence}"), soft_wrap=True)
        if each.note:
            out.print(styled((each.recipe, "bold"), ": ", (each.note, "yellow")), soft_wrap=True)


def short_path(path: str) -> str:
    """Relative to the working directory where that is shorter."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if "://" not in path and Path(path).is_relative_to(here) else path


def print_story(story: "Story") -> None:
    """One sample: its messages, its rows, its shot, its scores, and what each recipe did with it."""
    out.print(styled("sample ", (story.sample_id, "bold")))
    for message in story.messages:
        text = " ".join(message_text(message, reasoning=True).split())
        out.print(f"  {message['role']}: {text if len(text) <= 300 else text[:299] + '…'}")
    out.print(styled(("stands in", "bold")))
    for origin in story.origins:
        role = story.roles[origin["source"]]
        never = "" if role == "train" else f" (role {role}: never chosen)"
        out.print(f"  {origin['source']}: {origin['file']}, row {origin['row']}{never}")
    if story.shot is not None and story.shot["shot_id"] is not None:
        out.print(styled(("its shot", "bold"), f" {story.shot['shot_id']}, similarity {story.shot['similarity']:.6f}"))
    out.print(styled(("scores", "bold")))
    for score in sorted(story.scores, key=lambda s: (s.kind, not s.in_force, s.written)):
        _print_score(score)
    out.print(styled(("coresets", "bold")))
    for choice in story.choices:
        state = ("in", "green") if choice.rank is not None else "out"
        gain = "" if choice.gain is None or choice.rank is None else f", gain {choice.gain:.6g}"
        recipe = f"  {choice.recipe} ({choice.strategy}, {choice.budget}): "
        out.print(styled(recipe, state, f": {choice.why}{gain}"), soft_wrap=True)


def _print_score(score: "Score") -> None:
    not_used = "" if score.in_force else " (of an earlier provenance or shot; not used now)"
    if score.asked_by:
        not_used = f", as source {', '.join(score.asked_by)} asks{'' if score.in_force else ' (not used now)'}"
    out.print(styled("  ", (score.kind, "bold"), f", written {score.written:%Y-%m-%d %H:%M:%S} UTC", (not_used, "dim")))
    values = ", ".join(f"{name} {_score_value(value)}" for name, value in score.values.items())
    out.print(f"    {values}", soft_wrap=True)
    provenance = {k: v for k, v in score.provenance.items() if k != "rubric"}
    out.print(f"    provenance {score.fingerprint}: {json.dumps(provenance)}", soft_wrap=True)
    for line in score.provenance.get("rubric", "").splitlines():
        out.print(f"    | {line}", soft_wrap=True)


def _score_value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
