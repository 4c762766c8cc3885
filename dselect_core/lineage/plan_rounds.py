"""The part of a plan that is about d3's rounds: which will run, what they tune, and how many rows they score."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import polars as pl

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.coreset.spec import spec_version
from dselect_core.coreset.todo import CoresetTodo
from dselect_core.errors import DselectError
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.future_pool import FuturePool
from dselect_core.rounds.make_round import Rounds
from dselect_core.rounds.round_record import asset_of_round, read_record
from dselect_core.rounds.rounds_todo import RoundTodo, future_rounds, rounds_todo
from dselect_core.settings.workspace import Workspace


@dataclass(frozen=True)
class RoundPlans:
    """What to do for the rounds of all recipes. tokens: of samples (sample_id), each as often as it is named."""

    workspace: Workspace
    pool: FuturePool
    stale: Reasons
    lost: Reasons
    tokens: Callable[[pl.DataFrame], int]
    _known: dict[str, list[RoundTodo]] = field(default_factory=dict, init=False, repr=False)  # by recipe

    def coresets_behind(self) -> dict[tuple[str, str | None], str]:
        """{("coreset", recipe): why} of the coresets that nothing touches but rounds that come out otherwise now.

        So it is after another `feedback`, or a process that was killed between two rounds.
        """
        found: dict[tuple[str, str | None], str] = {}
        for recipe in self._recipes:
            if ("coreset", recipe) in self.stale or not self._named(recipe, self.stale):
                continue
            try:
                moves = any(self._moves(recipe, todo) for todo in self._todos(recipe))
            except DselectError:
                moves = True
            if moves:
                found["coreset", recipe] = "its rounds change"
        return found

    def steps(
        self, coresets: Mapping[str, CoresetTodo], changed_recipes: Collection[str], *, model_changes: bool
    ) -> list[Step]:
        """The steps of all rounds, by recipe. coresets: what there is to do for them, by recipe."""
        steps = []
        for recipe in self._recipes:
            coreset = coresets.get(recipe)
            pool_moves = model_changes or (coreset is not None and coreset.candidates_move)
            is_changed = recipe in changed_recipes
            named = self._named(recipe, self.stale) | self._named(recipe, self.lost)
            if not (pool_moves or is_changed or named):
                continue
            spec = self.workspace.settings.coresets[recipe]
            why = "its recipe is new or changed" if is_changed else "rows or scores changed"
            try:
                if pool_moves:
                    stays = not (model_changes or is_changed or 1 in self._named(recipe, self.stale))
                    ids, size = self.pool.candidate_ids, self.pool.ids.height
                    todos = future_rounds(self.workspace, recipe, spec, size, ids, warm_up_stays=stays)
                else:
                    todos = self._todos(recipe)
            except DselectError:  # its run says what is wrong
                steps += [Step(asset_of_round(n + 1), recipe, named.get(n + 1, why)) for n in range(spec.round_count)]
                continue
            behind = pool_moves or is_changed
            for todo in todos:
                if behind or todo.number in named:
                    steps.append(self._step(recipe, todo, named.get(todo.number, why if behind else "")))
                if not behind and self._moves(recipe, todo):
                    behind, why = True, f"round {todo.number} changes"
        return steps

    @property
    def _recipes(self) -> list[str]:
        return sorted(name for name, spec in self.workspace.settings.coresets.items() if spec.has_rounds)

    def _named(self, recipe: str, reasons: Reasons) -> dict[int, str]:
        """{round: why} of a recipe's rounds that the reasons name."""
        numbers = range(1, self.workspace.settings.coresets[recipe].round_count + 1)
        return {n: reasons[asset_of_round(n), recipe] for n in numbers if (asset_of_round(n), recipe) in reasons}

    def _todos(self, recipe: str) -> list[RoundTodo]:
        """Of all its rounds over the pool as it is. To know them they are chosen, which is done once a plan."""
        if recipe not in self._known:
            spec = self.workspace.settings.coresets[recipe]
            # Of which pool they will be said to be moves nothing that a plan asks.
            rounds = Rounds(self.workspace, recipe, spec, read_index(self.workspace), spec_version(spec), "")
            self._known[recipe] = rounds_todo(rounds)
        return self._known[recipe]

    def _moves(self, recipe: str, todo: RoundTodo) -> bool:
        """Whether a round comes out otherwise than its record, or if that is lost, the coreset's manifest says."""
        if todo.version is None:
            return True
        try:
            return read_record(self.workspace, recipe, todo.number).version != todo.version
        except DselectError:
            of_rounds = (readable_manifest(self.workspace, recipe) or {}).get("rounds", [])
            return todo.version not in [one.get("version") for one in of_rounds]

    def _step(self, recipe: str, todo: RoundTodo, why: str) -> Step:
        candidates = self.pool.candidate_ids
        rows = candidates if todo.missing is None else todo.missing
        tokens = self.tokens(rows) + int(self._tuned_tokens(recipe, todo))
        return Step(
            asset_of_round(todo.number),
            recipe,
            why,
            todo.rows,
            candidates.height - todo.rows,
            todo.exact,
            tokens,
            pass_name=f"round {todo.number}",
        )

    def _tuned_tokens(self, recipe: str, todo: RoundTodo) -> float:
        """Tokens of all epochs. Of rows that are not known yet, as many as rows of the mean length have."""
        epochs = self.workspace.settings.feedback.epochs
        if not isinstance(todo.tunes_on, int):
            return self.tokens(pl.DataFrame({"sample_id": todo.tunes_on}, schema={"sample_id": pl.String})) * epochs
        if self.workspace.settings.coresets[recipe].budget.unit == "tokens" and todo.number > 1:
            return todo.tunes_on * epochs
        candidates = self.pool.candidate_ids
        mean = self.tokens(candidates) / max(1, candidates.height) if todo.tunes_on else 0.0
        return todo.tunes_on * mean * epochs
