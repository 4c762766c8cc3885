"""Money in what the commands print: dollars, where a price is from, what a refresh spent."""

import polars as pl

from dselect_core.graders.batch.requests import CALL_PREFIX
from dselect_core.lineage.plan import GradesToBuy
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.token_prices import price_table
from dselect_core.settings.workspace import Workspace
from dselect_dagster.cli.console import out


def usd_text(usd: float | None) -> str:
    """`$1.23`; more places for what is less than a dollar."""
    return "unknown" if usd is None else f"${usd:,.2f}" if usd >= 1 else f"${usd:,.4f}"


def judge_name(spec: GraderSpec) -> str:
    """The judge's model, after its own name where it has one."""
    return f"{spec.model}" if spec.name is None else f"{spec.name} ({spec.model})"


def price_note(spec: GraderSpec) -> str | None:
    """Where the prices are from, when it is not the settings."""
    if spec.model is None or spec.usd_per_million_tokens is not None:
        return None
    if spec.price is None:
        return f"price unknown: set {spec.key}.usd_per_million_tokens"
    in_batch = f", {spec.live.price.batch:.0%} of it in batches" if spec.mode == "batch" and spec.live.price else ""
    return (
        f"by OpenAI's list price of {price_table().as_of} for {spec.model}{in_batch}, which may be another one today: "
        f"{spec.key}.usd_per_million_tokens wins"
    )


def grades_to_buy(grades: GradesToBuy, settings: Settings) -> str:
    """`4 rows are needed now, about 60 …, and 200 at most`, each with what it costs where that is known."""
    price = settings.grader.price if settings.grader.model is not None else None

    def told(rows: int) -> str:
        cost = "" if price is None else f" ({usd_text(price.usd(*grades.tokens(rows)))})"
        return f"{rows:,}{cost}"

    guess = "" if grades.expected is None else f", about {told(grades.expected)} if they come as those known"
    return f"{told(grades.now)} rows are needed for certain{guess}, and {told(grades.most)} at most"


def print_not_told(calls: pl.DataFrame) -> None:
    """A line about calls that may have cost something, and did not say what."""
    in_batches = pl.col("outcome").is_null() & pl.col("call_id").str.starts_with(CALL_PREFIX)
    waiting, unknown = (calls.filter(pl.col("may_have_cost") & each) for each in (in_batches, ~in_batches))
    if waiting.height:
        reserved = f", ${waiting['usd_at_most'].sum():,.4f} at most" if waiting["usd_at_most"].count() else ""
        out.print(
            f"{waiting.height:,} calls are in batches: not counted above{reserved}. Under a cap they count as that "
            "until they are collected; `dselect grades batches` lists them.",
            soft_wrap=True,
        )
    if unknown.height:
        at_most = unknown["usd_at_most"].sum()
        bound = f", ${at_most:,.4f} at most" if unknown["usd_at_most"].count() else ""
        out.print(
            f"{unknown.height:,} calls did not say what they took (no usage in the reply, a timeout, a kill): not "
            f"counted above{bound}. Under a cap they count as that.",
            soft_wrap=True,
        )


def print_spend_of_refresh(workspace: Workspace, run: str) -> None:
    """What a refresh spent, and what it did not ask because of a cap; nothing where it asked no paid grader."""
    from dselect_core.graders.spend import Ledger, usd_of

    settings = workspace.settings
    of_run = Ledger.of(workspace).calls(price=settings.prices).filter(run=run)
    for name, spec in settings.all_graders.items():
        # Without a name all are its own, also of judges that had one.
        calls = of_run if name is None else of_run.filter(judge=name)
        if spec.model is None or calls.is_empty():
            continue
        cap = "" if spec.max_usd is None else f" of {spec.key}.max_usd ${spec.max_usd:g}"
        spent = usd_text(usd_of(calls))
        out.print(f"{calls.height:,} calls to {judge_name(spec)}: {spent}{cap}; `dselect grades cost` tells more.")
        print_not_told(calls)
