"""What makes a run start: an input's data version changed, the asset's code version did, or a partition is new.

Why not `AutomationCondition.eager()`: it reacts to materialization events, so landing identical data again
runs everything downstream again, and it loses an update that lands while the target is running. Here the
triggers compare data versions, and they hold until the target is *requested*, which keeps such an update.

`execution_failed().newly_true()` gives one retry per failure; the bare operand would retry for ever.
"""

from collections.abc import Sequence

import dagster as dg

from dselect_core.kinds import FromForwardPass, all_kinds
from dselect_core.rounds.round_record import asset_of_round
from dselect_core.select.recipe import MAX_ROUNDS
from dselect_dagster.defs.namespace import Namespace

AC = dg.AutomationCondition

# Assets that do not wait for every partition of their inputs.
ALLOW_MISSING_DEPS = frozenset({"warmup_model", "corpus_index", "held_out"})
# Assets that are not held back from a coreset that fails a blocking check: the trial that may clear it.
NOT_BLOCKED_BY_CORESET = frozenset({"trial"})

# Assets that read all recipes, and do without those that are not recorded yet.
ALLOW_MISSING_RECIPES = frozenset({"candidate_grades"})


def on_input_change(
    namespace: Namespace,
    *,
    allow_missing_deps: bool = False,
    blocked_by_coreset: bool = True,
    allow_missing_recipes: bool = False,
    waits_for: Sequence[str] = (),
) -> dg.AutomationCondition:
    """Run when an input changed, and all inputs are there, passed their blocking checks and are not being made.

    allow_missing_deps: for the corpus index, which waits until each dependency has some partition, and
    lists the sources that are incomplete instead of waiting for all. blocked_by_coreset, allow_missing_recipes: see
    `inputs_are_ready`.
    waits_for: inputs that read what the asset reads itself: it waits for them while they are behind that, and is not
    made in their run. Inputs in the same partitions are among them: of several partitions that were made together with
    the asset Dagster knows one (`executed_with_root_target`), and would ask for all others again.
    """
    awaited = dg.AssetSelection.assets(*namespace.keys(*waits_for))
    dep_changed = AC.data_version_changed() & ~AC.executed_with_root_target()
    any_dep_changed = AC.any_deps_match(dep_changed) | AC.any_deps_match(AC.will_be_requested()).ignore(awaited)
    any_dep_changed = any_dep_changed.with_label("any_dep_changed")
    # `newly_requested` is true one tick after the request. A change that lands between the two ticks would meet
    # that reset and be lost, so a reset yields to a change.
    requested = (AC.newly_requested() | AC.initial_evaluation()).with_label("requested")
    changed = any_dep_changed.since(requested & ~any_dep_changed)
    trigger = changed | _own_change() | AC.execution_failed().newly_true()
    ready = inputs_are_ready(
        namespace,
        allow_missing_deps=allow_missing_deps,
        blocked_by_coreset=blocked_by_coreset,
        allow_missing_recipes=allow_missing_recipes,
    )
    if waits_for:
        ready = ready & ~AC.any_deps_match(_is_behind()).allow(awaited)
    return (trigger & ready).with_label("on_input_change")


def once_there_is_data(namespace: Namespace) -> dg.AutomationCondition:
    """For the model: made once some source has landed, again when its settings change, never when rows do.

    A model that followed every new row would make every score of every row stale.
    """
    trigger = _own_change() | AC.execution_failed().newly_true()
    return (trigger & inputs_are_ready(namespace, allow_missing_deps=True)).with_label("once_there_is_data")


def inputs_are_ready(
    namespace: Namespace,
    *,
    allow_missing_deps: bool = False,
    blocked_by_coreset: bool = True,
    allow_missing_recipes: bool = False,
) -> dg.AutomationCondition:
    """The inputs are there (or some partition of each), passed their blocking checks, and no run of them is under way.

    This is the condition without its triggers. `dselect refresh` evaluates it alone. blocked_by_coreset: whether the
    blocking checks of a coreset count. allow_missing_recipes: whether recipes may be missing.
    """
    # Of the kinds that share the forward pass, one that a model cannot give fails alone, and is waited for in vain.
    in_pass = dg.AssetSelection.assets(*namespace.keys(*_assets_of_forward_pass()))
    # Rounds have no checks. A coreset without rounds reads no partition of them, which is never "all of them passed".
    rounds = (asset_of_round(number + 1) for number in range(MAX_ROUNDS))
    checked = AC.all_deps_blocking_checks_passed().ignore(dg.AssetSelection.assets(*namespace.keys(*rounds)))
    if not blocked_by_coreset:
        checked = checked.ignore(dg.AssetSelection.assets(namespace.key("coreset")))
    missing = AC.any_deps_missing()
    if allow_missing_recipes:
        missing = AC.any_deps_match(AC.missing()).ignore(dg.AssetSelection.assets(namespace.key("coreset_spec")))
    present = (
        AC.all_deps_match(~AC.missing()).ignore(in_pass)
        & AC.all_deps_match(~AC.missing() | AC.execution_failed()).allow(in_pass)
        if allow_missing_deps
        else ~missing & checked
    )
    return present & ~AC.any_deps_in_progress() & ~AC.in_progress()


def _is_behind() -> dg.AutomationCondition:
    """Of an input: what it reads or its code changed since it was made, or what it reads is to be made in this run."""
    changed = AC.any_deps_match(AC.data_version_changed()) | AC.code_version_changed()
    return changed.since(AC.newly_updated()) | AC.any_deps_match(AC.will_be_requested())


def _assets_of_forward_pass() -> list[str]:
    return sorted({kind.asset for kind in all_kinds().values() if isinstance(kind.computation, FromForwardPass)})


def _own_change() -> dg.AutomationCondition:
    """Holds until requested: a partition may be new, or its code change, long before its inputs are there."""
    return (AC.code_version_changed() | AC.newly_missing()).since(AC.newly_requested())
