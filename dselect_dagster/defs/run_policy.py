"""How runs share what there is one of, and which of them try again.

A pool holds back the steps of all runs of an instance: `model` those that open a model, so that one device holds one at
a time; `grader` those that call an endpoint. The limits are the instance's: `concurrency: {pools: {default_limit: 1}}`
in dagster.yaml, or Deployment → Concurrency in the UI. Trade-off: each of several corpora has pools of its own; on one
device, `max_concurrent_runs` of the instance holds back all.

A step is tried again only where a place outside may not have answered, and only for that (run_errors.py): a bad row is
as bad the second time. So a corpus of local files, models and graders has no retries.
"""

from typing import Literal, TypedDict

import dagster as dg

from dselect_core.settings.settings import SourceSpec
from dselect_dagster.defs.corpus import Corpus

Tool = Literal["torch", "openai", "polars"]

_POOLS: dict[Tool, str] = {"torch": "model", "openai": "grader"}
RETRIES = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)
"""After half a minute and after a minute: a place that is away for longer makes a run that failed."""


class RunPolicy(TypedDict):
    """Two arguments of the decorators of assets and checks."""

    pool: str | None
    retry_policy: dg.RetryPolicy | None


def run_policy(corpus: Corpus, tool: Tool = "polars", *, reads_sources: bool = False, writes_to: str = "") -> RunPolicy:
    """The policy of an asset or check.

    tool: what computes the asset: a model that is opened, an endpoint that is called, or neither. reads_sources:
    whether it reads the places where rows come from. writes_to: a place outside of the storage.
    """
    asks = tool == "openai" or _is_remote(corpus.settings.storage) or _is_remote(writes_to)
    if reads_sources:
        asks |= any(_is_away(spec) for spec in corpus.settings.sources.values())
    pool = _POOLS.get(tool) if corpus.pools else None
    return {
        "pool": None if pool is None else corpus.namespace.prefixed(pool),
        "retry_policy": RETRIES if asks else None,
    }


def _is_away(spec: SourceSpec) -> bool:
    # The name of a dataset that is no folder's is one of the hub.
    return any(map(_is_remote, spec.paths)) or (spec.dataset is not None and not spec.dataset.startswith("/"))


def _is_remote(place: str) -> bool:
    return "://" in place and not place.startswith(("file://", "local://"))
