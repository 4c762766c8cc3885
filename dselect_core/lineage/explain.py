"""One sample's whole story: its rows in the sources, every score ever made for it, and what each recipe did with it.

Everything is read from where the graph put it. Nothing is computed again, so the story is the one that was acted on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.coreset.published import read_version
from dselect_core.corpus.raw_dataset import samples_that_begin
from dselect_core.corpus.sample import chat_messages
from dselect_core.errors import DselectError
from dselect_core.kinds import Kind, all_kinds, kind_of, kinds_in
from dselect_core.pool.corpus_index import Index, is_over_pool, read_index
from dselect_core.pool.pool_tables import NOT_GRADED
from dselect_core.rounds.round_record import WARM_UP
from dselect_core.select.judges_spec import GRADE
from dselect_core.select.saved_order import SavedOrder, read_saved_order
from dselect_core.settings.settings import Role
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet, read_with_metadata
from dselect_core.storage.source_head import readable_head
from dselect_core.storage.store_folder import WRITTEN_AT


@dataclass(frozen=True)
class Score:
    """One record of the store. kind: with the judge's name, of one that is in force.

    in_force: of the provenance, and where it has one with the shot, that the pool uses.
    asked_by: the sources of the sample whose scores are of this provenance, where sources have their own.
    """

    kind: str
    values: dict[str, Any]
    provenance: dict[str, Any]
    fingerprint: str
    written: datetime
    in_force: bool
    asked_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What became of the sample in one coreset. rank: in the coreset; why: what saved it out, or chose it."""

    recipe: str
    strategy: str
    budget: str
    rank: int | None
    gain: float | None
    why: str


@dataclass(frozen=True)
class Story:
    """All there is to tell of a sample. origins: its rows, as source, file, row. shot: shot_id and similarity.

    roles: {source that holds it: its role}.
    """

    sample_id: str
    messages: list[dict[str, Any]]
    origins: list[dict[str, Any]]
    shot: dict[str, Any] | None
    scores: list[Score]
    choices: list[Choice]
    roles: dict[str, Role]


def story(workspace: Workspace, sample: str, sources: list[str]) -> Story:
    """sample: an id, or the beginning of one. Raises DselectError when no sample, or more than one, has it."""
    rows = _rows_of_sample(workspace, sample, sources)
    sample_id = rows["sample_id"][0]
    shot = _shot(workspace, sample_id)
    origins = [origin for of_source in rows["origins"].to_list() for origin in of_source]
    holders = sorted({origin["source"] for origin in origins})
    return Story(
        sample_id,
        chat_messages(rows["messages"].to_list()[0]),
        origins,
        shot,
        list(_scores(workspace, sample_id, None if shot is None else shot["shot_id"], holders)),
        [_choice(workspace, recipe, sample_id, holders) for recipe in workspace.settings.coresets],
        {source: workspace.settings.role_of(source) for source in holders},
    )


def _rows_of_sample(workspace: Workspace, sample: str, sources: list[str]) -> pl.DataFrame:
    """The sample's row in each source that holds it."""
    rows = []
    for source in sorted(sources):
        if workspace.samples(source).exists():
            rows.append(samples_that_begin(workspace, source, sample.lower()))
    samples = pl.concat(rows) if rows else pl.DataFrame({"sample_id": []})
    ids = samples["sample_id"].unique().sort().to_list()
    if not ids:
        raise DselectError(
            f"no sample {sample}: no source holds one whose id begins so. Ids stand in order.parquet of a coreset, and "
            f"in {workspace.root / 'raw'}/<source>/samples.parquet"
        )
    if len(ids) > 1:
        raise DselectError(f"{sample}: {len(ids)} samples begin so ({', '.join(ids[:3])}, …); give more of the id")
    return samples


def _shot(workspace: Workspace, sample_id: str) -> dict[str, Any] | None:
    """Its shot and their similarity; None where no recipe needs shots, or the sample has none."""
    try:
        rows = read_parquet(workspace.neighbors).filter(pl.col("sample_id") == sample_id)
    except FileNotFoundError:
        return None
    return rows.row(0, named=True) if rows.height else None


def _scores(workspace: Workspace, sample_id: str, shot_id: str | None, holders: list[str]) -> Iterator[Score]:
    index = read_index(workspace)
    manifests = [readable_manifest(workspace, recipe) or {} for recipe in workspace.settings.coresets]
    rounds = [one for made in manifests for one in made.get("rounds", [])]
    for kind in all_kinds().values():
        folder = workspace.kind_folder(kind.name)
        used_by = _used_fingerprints(workspace, index, rounds, kind, holders)
        made_by = _made_by(workspace, kind, holders)
        for store_folder in sorted(folder.iterdir(), key=lambda path: path.name) if folder.exists() else []:
            if store_folder.suffix:
                continue  # a source's head
            store = workspace.open_store(kind.name, store_folder.name)
            keys = [part.frame.filter(pl.col("sample_id") == sample_id) for part in store.parts(store.keys)]
            if not keys:
                continue
            # Where a row was written twice, the one that the store gives to its readers.
            stored_keys = pl.concat(keys).select(store.keys).unique()
            rows = store.read(stored_keys).join(store.read(stored_keys, [WRITTEN_AT]), on=store.keys, nulls_equal=True)
            for row in rows.iter_rows(named=True):
                is_of_shot = kind.by_source or row["shot_id"] == shot_id
                users = used_by.get(store_folder.name, [])
                written = row.pop(WRITTEN_AT)
                in_force, name = bool(users) and is_of_shot, ", ".join(users) or kind.name
                asked_by = tuple(source for source in holders if (source, store_folder.name) in made_by)
                told = (name, _readable(row), store.provenance, store_folder.name, written)
                yield Score(*told, in_force, asked_by)


def _made_by(workspace: Workspace, kind: Kind, sources: list[str]) -> set[tuple[str, str]]:
    """(source, fingerprint of its scores) of a kind, or those of its makers, of which sources have several."""
    settings, found = workspace.settings, set()
    for name, each in kinds_in(settings).items():
        if each.stored_as == kind.name and each.of_its_source and len(settings.alike(settings.sources, each.maker)) > 1:
            heads = ((source, readable_head(workspace.head(name, source))) for source in sources)
            found |= {(source, head.fingerprint) for source, head in heads if head is not None}
    return found


def _used_fingerprints(
    workspace: Workspace, index: Index, rounds: list[dict[str, Any]], kind: Kind, holders: list[str]
) -> dict[str, list[str]]:
    """{fingerprint of a provenance that the pool uses now, or the rounds of coresets that stand: the kinds it is of}.

    These are the kind itself, or those of its makers. holders: the sources that hold the sample.
    """
    used: dict[str, list[str]] = {}
    if is_over_pool(workspace.settings, kind):
        table = workspace.pool_table(kind.name)
        return {read_metadata(table)["fingerprint"]: [kind.name]} if table.exists() else {}
    of_rounds = [(name, made_by) for one in rounds for name, made_by in one["scores"].items()]
    of_pool = []
    for name, fingerprints in index.fingerprints.items():
        pooled = [source for source in holders if source in index.stores.get(name, {})]
        # Where sources have their own, the pool takes the score of the first of them.
        of_pool += [(name, made_by) for made_by in ([index.stores[name][min(pooled)]] if pooled else fingerprints)]
    for name, made_by in dict.fromkeys([*of_pool, *of_rounds]):
        if kind_of(name).stored_as == kind.name:
            used.setdefault(made_by, []).append(name)
    return used


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """What a person can read: vectors and neuron sets by their size, no nulls."""
    values = {}
    for name, value in row.items():
        if name == "sample_id" or value is None:
            continue
        values[name] = f"{len(value)} numbers" if isinstance(value, list) else value
    return values


def _choice(workspace: Workspace, recipe: str, sample_id: str, holders: list[str]) -> Choice:
    """holders: the sources that hold the sample."""
    spec = workspace.settings.coresets[recipe]
    try:
        manifest, order = read_version(
            workspace.coreset(recipe), lambda made: (made.manifest, made.read_table("order.parquet"))
        )
    except FileNotFoundError:
        return Choice(recipe, spec.strategy, str(spec.budget), None, None, "this coreset is not made yet")
    recipe_facts = (recipe, manifest["strategy"], manifest["budget"])
    own_row = order.filter(pl.col("sample_id") == sample_id)
    if own_row.height:
        rank, gain = own_row["rank"][0], own_row["gain"][0]
        why = f"chosen, {rank} of {order.height}"
        if "round" in order.columns:
            why += f", {_by_round(manifest, own_row['round'][0])}"
        if "target" in order.columns:
            why += _taken_by(workspace, manifest, own_row)
        return Choice(*recipe_facts, rank, gain, why)
    key = manifest.get("order")
    saved = read_saved_order(workspace.orders / f"{key}.parquet", key) if key else None
    if saved is None:
        return Choice(*recipe_facts, None, None, "not chosen; the order it would stand in is not saved any more")
    rows = saved.table.filter(pl.col("sample_id") == sample_id).with_columns(is_bound=saved.is_bound)
    roles = [workspace.settings.role_of(source) for source in holders]
    if rows.is_empty() and "train" not in roles:
        held_by = ", ".join(f"{source} (role {role})" for source, role in zip(holders, roles, strict=True))
        return Choice(*recipe_facts, None, None, f"never chosen: it is of {held_by}")
    if rows.is_empty():
        return Choice(*recipe_facts, None, None, "not in the pool this coreset was chosen from")
    row = rows.row(0, named=True)
    if row["reason"] is not None:
        return Choice(*recipe_facts, None, None, f"cannot be chosen: {row['reason']}")
    if row["rank"] is not None:
        return Choice(*recipe_facts, None, row["gain"], f"comes {row['rank']}., and the budget ends at {order.height}")
    if row.get("state_too_alike", -1) >= 0:
        other = saved.table.filter(pl.col("reason").is_null())["sample_id"][row["state_too_alike"]]
        return Choice(*recipe_facts, None, None, f"passed over: too alike to {other}, which was chosen before it")
    passed_over = _passed_over(manifest, saved, row)
    if passed_over is not None:
        return Choice(*recipe_facts, None, row["standing"], f"passed over: {passed_over}")
    # A row without a grade is in an order only where the order was certain whatever its grade.
    not_graded = f"{NOT_GRADED}; " if GRADE in row and row[GRADE] is None else ""
    if row["standing"] is None:
        return Choice(*recipe_facts, None, None, f"{not_graded}does not come before the budget ends, at {order.height}")
    last = saved.table["gain"].filter(saved.table["rank"] == saved.table["rank"].max())
    ended = f"; the last of {len(saved.picks)} picks gained {last[0]:.6g}" if len(last) and last[0] is not None else ""
    standing = f"{'at most ' if row['is_bound'] else ''}{row['standing']:.6g}"
    told = f"{not_graded}would gain {standing} as the next pick{ended}"
    if rounds := manifest.get("rounds"):
        told += f", by the scores of {_model_of_round(rounds[-1])} (round {len(rounds)} of {len(rounds)})"
    return Choice(*recipe_facts, None, row["standing"], told)


def _by_round(manifest: dict[str, Any], number: int) -> str:
    """In which round a row came in, and by whose scores."""
    rounds = manifest["rounds"]
    if number == WARM_UP:
        return f"as a warm-up row ({manifest['in_rounds']['warmup']['by']}), before round 1 of {len(rounds)}"
    return f"in round {number} of {len(rounds)}, by the scores of {_model_of_round(rounds[number - 1])}"


def _model_of_round(facts: dict[str, Any]) -> str:
    if facts["tuned_on"] is None:
        return "the target model"
    rows = f"the {facts['tuned_on_rows']} rows"
    tuned_on = f"{facts['tuned_on_rows']} warm-up rows" if facts["tuned_on"] == "warm-up" else f"{rows} chosen before"
    return f"the model tuned on {tuned_on}"


def _passed_over(manifest: dict[str, Any], saved: SavedOrder, row: dict[str, Any]) -> str | None:
    """Why a row that came before the last pick was not picked; None where it came behind, or nothing divides the rows.

    The mixture is that of the budget, `saved` may have more picks.
    """
    groups = manifest.get("mixture", [])
    picked = saved.table.filter(pl.col("rank") <= manifest["counts"]["rows"]) if groups else saved.table.clear()
    if picked.is_empty() or manifest["options"].get("by") == "round-robin":
        return None  # gains of turns of different examples do not compare
    if "state_place" in row:
        is_ahead = row["state_place"] < picked["state_place"].max()
    else:
        last_gain = picked.sort("rank")["gain"][-1]
        is_ahead = last_gain is not None and row["standing"] is not None and row["standing"] > last_gain
    if not is_ahead:
        return None
    own, at_most = groups[row["state_group"]], ""
    if row["is_bound"]:
        at_most = f"; it would gain at most {row['standing']:.6g} as the next pick, and the last gained {last_gain:.6g}"
    if "balance" in manifest:
        turns = f"the {manifest['balance']['by']}s take turns (balance)"
        return f"{turns}, and {own['group']} has its {own['chosen']} rows{at_most}"
    if own["most"] is not None and own["chosen"] >= own["most"]:
        limit = manifest["quota"][own["group"]]["max"]
        return f"source {own['group']} is at its quota, {own['chosen']} rows (max {limit}){at_most}"
    if at_most:
        return None  # whether it was ahead is not known
    kept_for = ", ".join(f"{name} (min {of['min']})" for name, of in manifest["quota"].items() if "min" in of)
    return f"the room is kept for {kept_for}"


def _taken_by(workspace: Workspace, manifest: dict[str, Any], row: pl.DataFrame) -> str:
    """In words, which target example took a chosen row. row: its row of the order."""
    target = row["target"][0]
    if target is None:
        options = manifest["options"]
        return f"; it is of the general share, chosen by {options['general']}; {options['targeted']} are targeted"
    sources = [
        source
        for source in workspace.settings.sources_of("target")
        if workspace.samples(source).exists()
        and target in read_with_metadata(workspace.samples(source), ["sample_id"])[0]["sample_id"]
    ]
    of_sources = f" of {', '.join(sources)}" if sources else ""
    return f"; taken by target example {target}{of_sources}, cosine {row['gain'][0]:.4f}"
