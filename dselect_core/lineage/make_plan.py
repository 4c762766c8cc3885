"""Plan a refresh: ask each step, upstream first, what it has to do, and put a price on the answers.

The rules are the steps' own (`future_pool`, `score_todos`, `neighbors_todo`, `pair_todo`, `coreset_todos`): a run asks
the same functions. Rows are exact wherever the answer exists before the run. Two things do not: the shots of rows that
have no prompt vector yet, and the scores under a model that was never opened here (then every row counts as missing).
A plan only reads.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from dselect_core.coreset.todo import CoresetTodo, UpstreamChanges, coreset_todos
from dselect_core.kinds import FromScores, Kind, all_kinds, kind_of, kinds_by_asset, kinds_in, rankable_columns
from dselect_core.lineage.cost_estimates import SHOTS, lengths
from dselect_core.lineage.plan import Plan, Rate, Reasons, Step, timed
from dselect_core.lineage.plan_candidate_grades import CANDIDATE_GRADES, candidate_grades_plan
from dselect_core.lineage.plan_grades import with_grader
from dselect_core.lineage.plan_model import MODEL, future_model
from dselect_core.lineage.plan_near_duplicates import near_duplicates_step
from dselect_core.lineage.plan_publication import PUBLICATION, publication_steps
from dselect_core.lineage.plan_rounds import RoundPlans
from dselect_core.lineage.plan_targets import search_note, targets_will_move
from dselect_core.lineage.plan_trials import trial_steps
from dselect_core.neighbors.update_neighbors import neighbors_todo
from dselect_core.pool.corpus_index import index_of, is_over_pool, kinds_of_sources, needed_kinds, needs_neighbors
from dselect_core.pool.future_pool import FileChange, FuturePool, future_pool
from dselect_core.rounds.round_record import asset_of_round
from dselect_core.scores.forward_scores import uncomputable_kinds
from dselect_core.scores.provenance import future_store_of_pool
from dselect_core.scores.update import ScoreTodo, todos_of_sources
from dselect_core.scores.update_pairs import pair_todo
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.recipe import MAX_ROUNDS
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import Store

_INDEX, _NEIGHBORS = ("corpus_index", None), ("neighbors", None)


def make_plan(
    workspace: Workspace,
    landing: Mapping[str, FileChange],
    recipes: Collection[str],
    back: Collection[str],
    sources: Collection[str],
    stale: Reasons,
    rates: Callable[[], Mapping[str, Rate]],
    lost: Reasons | None = None,
    landed_versions: Mapping[str, str] | None = None,
    index_version: str | None = None,
) -> Plan:
    """The plan of a refresh.

    landing: sources that differ from what was last landed; recipes: those whose spec is new or changed; back: those
    that were gone and come back unchanged; sources: all there are, with those that are gone; stale: what the
    orchestrator already calls stale or missing, and why; rates: reads those of past runs, by asset, and is asked where
    something is to be made; lost: what the orchestrator calls made, and whose files are lost (lost_tables.py);
    landed_versions: of the samples that landed last, by source; index_version: of the corpus index that the
    orchestrator knows.
    """
    lost = lost or {}
    kinds = kinds_of_sources(workspace.settings) - uncomputable_kinds(workspace).keys()
    rebuilt = index_of(workspace, sorted(sources), kinds) if _INDEX in lost else None
    pool = future_pool(workspace, landing, sources, landed_versions or {}, rebuilt)
    model, model_step, model_problem = future_model(workspace, stale, lost, pool)
    planner = _Planner(workspace, pool, model, stale, index_version, dict(lost))
    steps = [
        *(
            Step("raw_dataset", name, "cannot be read")
            if name in pool.problems
            else Step("raw_dataset", name, _why_landed(name, state, lost), pool.sources[name].samples.height, 0)
            for name, state in sorted(landing.items())
            if name in sources
        ),
        *(
            Step("coreset_spec", recipe, _why_recorded(recipe, back, lost))
            for recipe in sorted({*recipes, *back, *(str(name) for asset, name in lost if asset == "coreset_spec")})
        ),
        *([] if model_step is None else [model_step]),
        *planner.scores(),
        *planner.index(),
        *planner.neighbors_and_pairs(),
        *planner.near_duplicates(),
        *planner.candidate_grades(frozenset(recipes)),
        *planner.coresets(frozenset(recipes), model_changes=model_step is not None),
        *planner.trials(model_changes=model_step is not None),
    ]
    steps += publication_steps(workspace, planner.coreset_todos, steps, stale, lost)
    order = _asset_order()
    known = rates() if steps else {}
    steps = sorted((timed(step, known.get(step.asset)) for step in steps), key=lambda step: order.index(step.asset))
    return Plan(steps, planner.lost, pool.problems | model_problem)


@dataclass
class _Planner:
    """Asks the steps in their order. Each tells the next what it will have changed."""

    workspace: Workspace
    pool: FuturePool
    model: dict[str, Any] | None  # provenance of the target model there will be; None: known once it was opened
    stale: Reasons
    index_version: str | None  # that the orchestrator knows
    lost: dict[tuple[str, str | None], str] = field(default_factory=dict)
    score_todos: dict[str, dict[str, ScoreTodo]] = field(default_factory=dict)  # by kind and source
    replaced_kinds: set[str] = field(default_factory=set)
    index_moves: bool = False
    targets_move: bool = False
    pairs: pl.DataFrame | None = None  # samples with the shots they will have; None: not known before the run
    pairs_move: bool = False
    neighbors_move: bool = False
    near_duplicates_move: bool = False
    grades_move: bool = False
    coreset_todos: dict[str, CoresetTodo] = field(default_factory=dict)  # by recipe
    _lengths: pl.DataFrame | None = None

    @cached_property
    def needed(self) -> frozenset[str]:
        return needed_kinds(self.workspace.settings) - uncomputable_kinds(self.workspace).keys()

    def scores(self) -> list[Step]:
        """Steps of the scores that are made source by source."""
        todos = self.score_todos
        settings = self.workspace.settings
        for kind in kinds_in(settings).values():
            if kind.name not in self.needed or is_over_pool(settings, kind):
                continue
            reasons = {source: why for (asset, source), why in self.stale.items() if asset == kind.asset and source}
            lost = {source: why for (asset, source), why in self.lost.items() if asset == kind.asset and source}
            lost_files = {source: why for source, why in lost.items() if source not in reasons}
            sources = self.pool.sources
            todos[kind.name] = todos_of_sources(self.workspace, kind, sources, self.model, reasons, lost_files)
            for todo in todos[kind.name].values():
                if todo.why is not None and todo.replaces_scores and todo.source in self.pool.pooled:
                    self.replaced_kinds.add(kind.name)
                if todo.lost and todo.why is not None:
                    self.lost[kind.asset, todo.source] = todo.why
        steps = []
        for asset, kinds in kinds_by_asset(settings, by_source=True).items():
            for source in self.pool.sources:
                due = [todos[kind.name][source] for kind in kinds if kind.name in todos]
                due = [todo for todo in due if todo.why is not None]
                if due:
                    steps.append(self._score_step(asset, source, due))
        return steps

    def _score_step(self, asset: str, source: str, due: list[ScoreTodo]) -> Step:
        computed = max(todo.missing_rows.height for todo in due)
        total = self.pool.sources[source].samples.height
        # Whether a model that is lost comes out the same, so that its scores are found, shows when it is made.
        exact = not (MODEL in self.lost and any(todo.store is None for todo in due))
        step = Step(asset, source, due[0].why or "", computed, total - computed, exact)
        step = with_grader(step, due, self.workspace, self.pool)
        if any(todo.kind.reads_model(self.workspace.settings) for todo in due):
            step = replace(step, tokens=self._tokens_of_model(source), pass_name="forward pass")
        return step

    def _tokens_of_model(self, source: str) -> int:
        """Tokens of all that the model computes for a source: every asset that takes part names them all.

        One pass for the kinds that share it, and one for each kind that has its own: priced at whole samples, at most.
        """
        settings, in_pass, tokens = self.workspace.settings, [self.pool.ids.clear()], 0
        for name, of_source in self.score_todos.items():
            todo = of_source[source]
            if todo.why is None or not todo.kind.reads_model(settings):
                continue
            if isinstance(kind_of(name).computed_by(settings), FromScores):
                tokens += self._tokens(todo.missing_rows)
            else:
                in_pass.append(todo.missing_rows)
        return tokens + self._tokens(pl.concat(in_pass).unique())

    def index(self) -> list[Step]:
        """The step of the corpus index."""
        why = self.stale.get(_INDEX)
        self.targets_move = targets_will_move(self.workspace, self.pool, self.score_todos)
        self.index_moves = (
            self._rows_moved
            or self._index_is_behind()
            or bool(self.replaced_kinds)
            or self.pool.held_out_moved
            or self.targets_move
            # Made again, it comes out as it is: that is what the orchestrator knows, or not.
            or (why is not None and (self.pool.index is None or self.pool.index.version != self.index_version))
        )
        why = why or self.lost.get(_INDEX)
        is_made = self.index_moves or self._eval_moved or why is not None
        return [Step(*_INDEX, why or "rows or scores changed")] if is_made else []

    @cached_property
    def _rows_moved(self) -> bool:
        """Whether the pool gets other samples than those that landed, or than those that were scored, last."""
        return self.pool.rows_moved or any(todo.rows_changed for todo in self._todos(in_pool=True))

    @property
    def _eval_moved(self) -> bool:
        """Whether a source that is not chosen from has other samples or scores: the index is made, and may not move."""
        moved = any(rows.moved for name, rows in self.pool.sources.items() if name not in self.pool.pooled)
        todos = self._todos(in_pool=False)
        return moved or any(todo.rows_changed or (todo.why is not None and todo.replaces_scores) for todo in todos)

    def _todos(self, *, in_pool: bool) -> list[ScoreTodo]:
        todos = [todo for of_source in self.score_todos.values() for todo in of_source.values()]
        return [todo for todo in todos if (todo.source in self.pool.pooled) == in_pool]

    def _index_is_behind(self) -> bool:
        """Whether the index lists other samples or scores than the sources have: a process was killed before it."""
        indexed = {} if self.pool.index is None else self.pool.index.sources
        versions: dict[str, dict[str, str]] = {}
        for source, rows in self.pool.pooled.items():
            heads = {name: todos[source].head for name, todos in self.score_todos.items()}
            if source in indexed and any(self._head_is_lost(name, source) for name in heads):
                versions[source] = indexed[source]
            elif not rows.samples.is_empty() and all(heads.values()):
                of_kinds = {name: head.version for name, head in heads.items() if head is not None}
                versions[source] = {"samples": rows.version, **of_kinds}
        return versions != indexed

    def _head_is_lost(self, name: str, source: str) -> bool:
        """Whether the source's head of a kind is lost and will be written again as it was."""
        todo = self.score_todos[name][source]
        return todo.head is None and todo.lost

    def neighbors_and_pairs(self) -> list[Step]:
        """Steps of the shots and of the scores that are made over the pool."""
        kinds = [kind for kind in all_kinds().values() if not kind.by_source and kind.name in self.needed]
        why = self.stale.get(_NEIGHBORS)
        self.neighbors_move = shots_move = self.index_moves or why is not None
        why = why or self.lost.get(_NEIGHBORS)
        searched = needs_neighbors(self.workspace.settings) and (shots_move or why is not None)
        moving = {kind.name for kind in kinds if shots_move or (kind.asset, None) in self.stale}
        # Nothing is read where nothing is due.
        kinds = [kind for kind in kinds if kind.name in moving or (kind.asset, None) in self.lost]
        if not kinds and not searched:
            return []
        candidate_ids, prompts = self.pool.candidate_ids, self._store(kind_of("prompts"))
        pool_rows = candidate_ids.height
        todo = neighbors_todo(self.workspace, candidate_ids, None if prompts is None else [prompts.fingerprint])
        pairs, changed_rows, steps = todo.previous, 0, []
        if searched and not todo.is_current:
            if prompts is not None and pool_rows and prompts.missing(candidate_ids).is_empty():
                pairs = todo.search(prompts.read_array(candidate_ids).values)
                changed_rows = todo.changed_rows(pairs)
            else:
                pairs, changed_rows = None, min(pool_rows, todo.estimated_changed_rows())
        if searched:
            because = why or ("the pool changed" if self.pool.rows_moved else "upstream changed")
            exact = pairs is not None
            reused = pool_rows - changed_rows
            steps.append(Step("neighbors", None, because, changed_rows, reused, exact, note=todo.note))
        self.pairs = pairs
        for kind in kinds:
            reasons = self.stale if kind.name in moving else self.lost
            why = reasons.get((kind.asset, None), "shots or losses changed")
            steps.append(self._pair_step(kind, pairs, changed_rows, why))
            if kind.name in moving:
                self.pairs_move = True
                if steps[-1].computed or changed_rows:
                    self.replaced_kinds.add(kind.name)
        return steps

    def _pair_step(self, kind: Kind, pairs: pl.DataFrame | None, changed_rows: int, why: str) -> Step:
        pool_rows, store = self.pool.candidate_ids.height, self._store(kind)
        if store is None or pairs is None:
            missing, exact = (pool_rows, True) if store is None else (changed_rows, False)
            # A sample of the mean length, and its share of a shot that runs once for all that are shown it.
            mean = self._tokens(self.pool.candidate_ids) / max(1, pool_rows) if missing else 0
            tokens = int((1 + (SHOTS if self._shares_shots else 1)) * missing * mean)
        else:
            todo = pair_todo(kind, pairs, store)
            missing, exact = todo.missing_pairs.height, True
            shots = todo.missing_pairs.select(sample_id="shot_id").drop_nulls()
            shots = shots.unique() if self._shares_shots else shots
            tokens = self._tokens(todo.missing_pairs) + self._tokens(shots)
        return Step(kind.asset, None, why, missing, pool_rows - missing, exact, tokens, pass_name=kind.name)

    @property
    def _shares_shots(self) -> bool:
        """Whether the model's chat template lets a shot run once for all samples behind it (lm/render.py)."""
        return bool((self.model or {}).get("shares_shots", True))

    def near_duplicates(self) -> list[Step]:
        """The step of the near-duplicates."""
        todos = self._todos(in_pool=True)
        steps, self.near_duplicates_move = near_duplicates_step(
            self.workspace, self.neighbors_move, self.pairs, self._store, todos, self.stale, self.lost
        )
        return steps

    def candidate_grades(self, changed_recipes: frozenset[str]) -> list[Step]:
        """The step of the grades of rows that can still be chosen, where the settings ask for no others."""
        inputs_move = self.index_moves or self.near_duplicates_move or self.pairs_move or bool(changed_recipes)
        planned = candidate_grades_plan(
            self.workspace, self.pool, self._store, inputs_move, self.near_duplicates_move, self.stale, self.lost
        )
        self.grades_move = planned.moves
        if planned.moves:
            self.replaced_kinds.add(GRADES)
        if planned.tried_again is not None:
            self.lost[CANDIDATE_GRADES] = planned.tried_again
        return planned.steps

    def coresets(self, changed_recipes: frozenset[str], *, model_changes: bool) -> list[Step]:
        """Steps of the candidates, the rounds and the coresets."""
        upstream = UpstreamChanges(
            self.pool,
            rows_moved=self._rows_moved,
            replaced_kinds=frozenset(self.replaced_kinds),
            lengths_replaced=model_changes and any(kind_of(name).of_text_columns() for name in self.needed),
            index_moves=self.index_moves or self.pairs_move or self.grades_move,
            scored_new_ids=self._scored_new_ids,
            near_duplicates_move=self.near_duplicates_move,
            targets_moved=self.targets_move,
        )
        rounds = RoundPlans(self.workspace, self.pool, self.stale, self.lost, self._tokens)
        reasons = {**rounds.coresets_behind(), **self.stale}
        steps = []
        for todo in coreset_todos(self.workspace, upstream, changed_recipes, reasons, self.lost):
            self.coreset_todos[todo.recipe] = todo
            if todo.candidates_why is not None:
                steps.append(Step("candidates", todo.recipe, todo.candidates_why))
            if todo.why is not None:
                reused = None if todo.rows is None else todo.reused_rows
                note = search_note(self.workspace, todo.recipe, self.pool)
                steps.append(Step("coreset", todo.recipe, todo.why, todo.picked_rows, reused, todo.exact, note=note))
        return [*steps, *rounds.steps(self.coreset_todos, changed_recipes, model_changes=model_changes)]

    def trials(self, *, model_changes: bool) -> list[Step]:
        """Steps of the held-out rows and the trials, where some recipe is tried."""
        return trial_steps(
            self.workspace, self.pool, self.coreset_todos, self.stale, self.lost, self._lengths_of, model_changes
        )

    def _scored_new_ids(self, name: str) -> pl.DataFrame:
        """Samples that are new to the pool and have a score already, from an earlier time or another source."""
        kind, ids = kind_of(name), self.pool.new_ids
        store = self._store(kind)
        if ids is None or ids.is_empty() or store is None or (self.pairs is None and not kind.by_source):
            return self.pool.ids.clear()
        if self.pairs is not None and not kind.by_source:
            ids = self.pairs.join(ids, on="sample_id", how="semi")
        scores, _ = store.read_without_vectors(ids)
        return scores.drop_nulls(kind.value).select("sample_id") if scores.height else self.pool.ids.clear()

    def _store(self, kind: Kind) -> Store | None:
        ids = {name: rows.samples for name, rows in self.pool.pooled.items()}
        return future_store_of_pool(self.workspace, kind, self.model, ids)

    def _tokens(self, rows: pl.DataFrame) -> int:
        """Tokens of the samples named in `rows`; one that is named twice counts twice."""
        return 0 if rows.is_empty() else int(rows.join(self._lengths_of(), on="sample_id")["tokens"].sum())

    def _lengths_of(self) -> pl.DataFrame:
        """sample_id, tokens of the pool."""
        if self._lengths is None:
            counting = rankable_columns()["response_tokens"]
            store = self._store(kind_of(counting)) if counting in self.needed else None
            self._lengths = lengths(self.pool.characters, store)
        return self._lengths


def _why_recorded(recipe: str, back: Collection[str], lost: Reasons) -> str:
    return (
        "its recipe is back" if recipe in back else lost.get(("coreset_spec", recipe), "its recipe is new or changed")
    )


def _why_landed(source: str, state: FileChange, lost: Reasons) -> str:
    return lost.get(("raw_dataset", source), "its tables are lost") if state == "lost" else f"its files are {state}"


def _asset_order() -> list[str]:
    by_source, over_pool = kinds_by_asset(by_source=True), kinds_by_asset(by_source=False)
    upstream = ("raw_dataset", "coreset_spec", "warmup_model")
    rounds = (asset_of_round(n + 1) for n in range(MAX_ROUNDS))
    downstream = (CANDIDATE_GRADES[0], "candidates", *rounds, "coreset", "held_out", "trial", PUBLICATION)
    return [*upstream, *by_source, "corpus_index", "neighbors", "near_duplicates", *over_pool, *downstream]
