"""Options of strategies: from the settings file to the order, and the record of a recipe."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from dselect_core.coreset.spec import read_spec, spec_version, write_spec
from dselect_core.fingerprint import fingerprint
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.facility_location import facility_location
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import select
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json

TAKEN = [("deita", "threshold", 0.8), ("facility-location", "neighbors", 7)]


@pytest.mark.parametrize(("name", "option", "value"), TAKEN)
def test_an_option_survives_its_record_and_makes_a_version(
    name: str, option: str, value: float, tmp_path: Path
) -> None:
    recipes = {
        "plain": CoresetSpec(strategy=name, budget=5),
        "with_option": CoresetSpec(strategy=name, budget=5, **{option: value}),
    }
    place = Workspace(
        Settings(storage=str(tmp_path), sources={"s": {"path": "x.jsonl"}}, coresets=recipes)  # type: ignore[dict-item]
    )
    versions = {}
    for recipe, spec in recipes.items():
        written, versions[recipe] = write_spec(place, recipe)
        assert read_spec(place, recipe) == spec == written
    assert versions["plain"] != versions["with_option"]
    assert read_json(place.spec("with_option")) == {
        "strategy": name,
        "budget": "5 rows",
        "seed": 0,
        option: value,
    }


def test_a_recipe_without_options_has_the_version_it_had_before_there_were_any() -> None:
    spec = CoresetSpec(strategy="d3", budget=5)
    assert spec_version(spec) == fingerprint({"strategy": "d3", "budget": "5 rows", "seed": 0})


@pytest.mark.parametrize(
    ("recipe", "version"),
    [
        ({"strategy": "d3", "budget": "10%"}, "bc9bf48f9b33c3869090149c15ef2033"),
        ({"strategy": "deita", "budget": 4, "threshold": 0.99}, "16db4c60479613720c2ea8f25a9b58d7"),
        ({"strategy": "facility-location", "budget": 6, "neighbors": 5, "seed": 2}, "76da81f9390b5f77e9e66f5df4664271"),
        ({"strategy": "random", "budget": "200 tokens", "seed": 3}, "7e4190ba4957ce44472d5f1b3ab57f17"),
    ],
)
def test_a_recipe_has_the_version_it_had_in_0_1(recipe: dict[str, object], version: str) -> None:
    assert spec_version(CoresetSpec.model_validate(recipe)) == version


@pytest.mark.parametrize(("name", "option", "value"), TAKEN)
def test_an_option_is_an_error_where_it_has_no_use(name: str, option: str, value: float) -> None:
    for other in {"d3", "random", "topk:loss", "deita", "facility-location"} - {name}:
        with pytest.raises(ValidationError, match=rf"`{option}` is an option of {name}; `{other}` has no use for it"):
            CoresetSpec(strategy=other, budget=5, **{option: value})


@pytest.mark.parametrize(
    ("option", "value"), [("threshold", 0), ("threshold", 1.1), ("threshold", "high"), ("neighbors", 0)]
)
def test_values_out_of_range_are_refused(option: str, value: object) -> None:
    name = next(name for name, taken, _ in TAKEN if taken == option)
    with pytest.raises(ValidationError, match=option):
        CoresetSpec(strategy=name, budget=5, **{option: value})


def test_the_option_reaches_the_order() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 4)).astype(np.float32)
    scores = pl.DataFrame({"sample_id": [f"{i:02d}" for i in range(50)], "upd": [0.5] * 50, "grade": [0.5] * 50})
    pool = Pool(scores, vectors)

    def chosen(**given: object) -> list[str]:
        return select(pool, CoresetSpec(budget=50, **given)).order["sample_id"].to_list()

    few = [f"{pick.row:02d}" for pick in facility_location(vectors, 3)]
    assert chosen(strategy="facility-location", neighbors=3) == few != chosen(strategy="facility-location")
    assert len(chosen(strategy="deita", threshold=0.5)) < len(chosen(strategy="deita")) < 50
