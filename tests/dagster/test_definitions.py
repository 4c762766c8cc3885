"""The code location: what it holds, what it costs to load, and that every way in names the same module."""

import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dselect_core.settings.settings import Settings
from dselect_dagster.defs.assets.coreset import column_descriptions
from dselect_dagster.defs.graph import build_definitions, code_versions

ROOT = Path(__file__).parents[2]
SEVEN = {
    "raw_dataset",
    "embeddings",
    "difficulty_scores",
    "dependability_grades",
    "activations",
    "miwv_values",
    "coreset",
}
GROUPS = ["sources", "model", "scores", "pool", "selection", "proof"]
"""As the graph is laid out: no edge runs back."""

RECIPES = {
    "d3": {"strategy": "d3", "budget": "10%"},
    "weak": {"strategy": "miwv", "budget": "1%"},
    "wide": {"strategy": "mads", "budget": "15%"},
}


def settings(**changed: object) -> Settings:
    return Settings.model_validate({"sources": {"a": {"path": "a.json"}}, "coresets": RECIPES} | changed)


def test_every_asset_is_there_and_says_what_it_is() -> None:
    graph = build_definitions(settings()).resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    between = {"warmup_model", "corpus_index", "neighbors", "coreset_spec", "candidates"}
    assert names == SEVEN | between | {"held_out", "trial"}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description
        assert node.group_name in GROUPS
        assert node.owners == ["team:data-curation"]
        assert node.kinds
        assert node.code_version


def test_groups_read_from_left_to_right() -> None:
    rounds = {"strategy": "d3", "budget": "10%", "rounds": 2}
    alike = {"threshold": 0.9}
    with_rounds = settings(coresets=RECIPES | {"fed": rounds | {"trial": True}}, sources=EVAL, near_duplicates=alike)
    with_candidates = settings(grader={"candidates": "only"})
    for given in (with_rounds, with_candidates):
        graph = build_definitions(given).resolve_asset_graph()
        for key in graph.get_all_asset_keys():
            own = GROUPS.index(graph.get(key).group_name or "")
            assert all(GROUPS.index(graph.get(parent).group_name or "") <= own for parent in graph.get(key).parent_keys)


def test_partitions_are_sources_and_recipes_and_what_looks_across_rows_has_none() -> None:
    graph = build_definitions(settings()).resolve_asset_graph()
    names = {
        key.to_user_string(): graph.get(key).partitions_def.name  # type: ignore[union-attr]
        for key in graph.get_all_asset_keys()
        if isinstance(graph.get(key).partitions_def, dg.DynamicPartitionsDefinition)
    }
    by_source = {"raw_dataset", "embeddings", "difficulty_scores", "dependability_grades", "activations"}
    assert names == dict.fromkeys(by_source, "source") | dict.fromkeys(
        ["coreset_spec", "candidates", "coreset"], "recipe"
    ) | {"trial": "trial"}


OF_A_MODEL = {"embeddings", "difficulty_scores", "activations", "neighbors", "miwv_values"}


@pytest.mark.parametrize(
    ("recipes", "idle"),
    [
        (RECIPES, set()),
        ({"d3": RECIPES["d3"]}, {"activations", "neighbors", "miwv_values"}),
        (
            {"w": RECIPES["wide"]},
            {"embeddings", "difficulty_scores", "dependability_grades", "neighbors", "miwv_values"},
        ),
        ({"w": RECIPES["weak"]}, {"activations", "dependability_grades"}),
        ({"g": {"strategy": "topk:grade", "budget": 2}}, {*OF_A_MODEL, "warmup_model"}),
        ({"r": {"strategy": "random", "budget": 2}}, {*OF_A_MODEL, "warmup_model", "dependability_grades"}),
    ],
)
def test_a_score_that_no_recipe_reads_is_not_requested(recipes: dict[str, object], idle: set[str]) -> None:
    graph = build_definitions(settings(coresets=recipes)).resolve_asset_graph()
    landed = {"raw_dataset", "coreset_spec"}
    unconditioned = {
        k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).automation_condition is None
    }
    assert unconditioned - landed == idle | {"held_out", "trial"}


EVAL = {"a": {"path": "a.json"}, "held": {"path": "h.json", "role": "eval"}}


def test_a_model_is_made_for_a_trial_alone_where_it_is_the_one_that_is_tuned() -> None:
    def is_made(**trials: object) -> bool:
        recipe = {"strategy": "random", "budget": 2, "trial": True}
        graph = build_definitions(settings(coresets={"r": recipe}, sources=EVAL, trials=trials)).resolve_asset_graph()
        return graph.get(dg.AssetKey("warmup_model")).automation_condition is not None

    assert is_made()
    assert not is_made(model="another/model")


def test_trials_and_their_checks_are_there_where_a_recipe_is_tried() -> None:
    def definitions(**of_d3: object) -> tuple[set[str], dict[str, bool]]:
        coresets = RECIPES | {"d3": RECIPES["d3"] | of_d3}
        graph = build_definitions(settings(coresets=coresets, sources=EVAL)).resolve_asset_graph()
        requested = {
            name for name in ("held_out", "trial") if graph.get(dg.AssetKey(name)).automation_condition is not None
        }
        of_coreset = graph.get(dg.AssetKey("coreset")).check_keys
        always = {"every_source_kept", "not_collapsed", "few_chosen_are_alike"}
        return requested, {key.name: graph.get(key).blocking for key in of_coreset if key.name not in always}

    assert definitions() == (set(), {})
    assert definitions(trial=True) == ({"held_out", "trial"}, {"beats_random": False})
    checks = {"beats_random": False, "requirements_met": True}
    assert definitions(trial=True, require=["beats_random"]) == ({"held_out", "trial"}, checks)


def test_a_setting_moves_the_code_version_of_its_score_and_no_other() -> None:
    before = code_versions(settings())

    def moved(**changed: object) -> set[str]:
        after = code_versions(settings(**changed))
        return {name for name in before if before[name] != after[name]}

    assert moved(difficulty={"beta": 2.0}) == {"difficulty_scores"}
    assert moved(activations={"top_share": 0.02}) == {"activations"}
    assert moved(grader={"model": "judge"}) == {"dependability_grades"}
    assert moved(warmup={"steps": 7}) == {"warmup_model"}
    assert moved(embeddings={"path": "org/encoder"}) == {"embeddings"}
    assert moved(trials={"seeds": 4}) == moved(trials={"model": "org/model"}) == {"trial"}
    rendering = {"difficulty_scores", "embeddings", "activations", "miwv_values"}
    assert moved(model={"max_length": 99}) == rendering
    # What changes no value changes no version.
    assert moved(model={"batch_tokens": 7, "device": "cpu"}, grader={"concurrency": 2}, owners=["team:x"]) == set()
    assert moved(trials={"max_seconds": 9, "keep_models": False}) == set()
    assert moved(trials={"task_limit": 9, "task_path": "tasks", "num_fewshot": 2}) == set()  # of no task


def test_loading_the_code_location_imports_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "dselect.yaml").write_text(yaml.safe_dump({"sources": {"a": {"path": "a.json"}}, "coresets": RECIPES}))
    code = (
        "import sys, time; start = time.process_time()\n"
        "import dselect_dagster.definitions as d\n"
        "heavy = ['torch', 'transformers', 'datasets', 'faiss', 'openai', 'matplotlib', 's3fs']\n"
        "print([m for m in heavy if m in sys.modules], time.process_time() - start < 10, len(d.defs.assets))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[] True 12", done.stderr


def test_every_way_in_names_the_same_module() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module = workspace["load_from"][0]["python_module"]["module_name"]
    assert module == project["tool"]["dg"]["project"]["code_location_target_module"] == "dselect_dagster.definitions"


def test_a_column_of_a_coreset_is_described_as_what_it_holds_there() -> None:
    described = column_descriptions()
    assert described["prompt_tokens"].startswith("length of the prompt")  # a grader has a column of that name too
    assert described["grade"].startswith("dependability")
