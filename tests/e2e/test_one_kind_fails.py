"""A kind that cannot be computed fails by itself: the others of its pass, and the recipes that read them, are made."""

from pathlib import Path

import polars as pl
import pytest
import torch

from dselect_core.kinds import Column, FromForwardPass, Kind, register, unregister
from dselect_core.scores.update import KindsNotComputedError, update_scores
from tests.e2e.conftest import RECIPES, WORDS
from tests.e2e.graph import Graph, alpaca, errors, materialised
from tests.tiny import save_llama, tokenizer


def save_mamba(folder: Path) -> str:
    """A random model whose layers have no MLP."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=len(tokenizer()), hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def project(folder: Path, model: str, **settings: object) -> Graph:
    graph = Graph(folder)
    graph.source("a", alpaca(WORDS))
    graph.source("b", alpaca(WORDS[:8], offset=50))
    graph.sources("ab")
    graph.settings(coresets=RECIPES, model={"path": model}, **settings)
    return graph


@pytest.mark.walk(1)
@pytest.mark.parametrize("why", ["no MLP", "no such layer"])
def test_a_mads_recipe_that_the_model_cannot_serve_stops_no_other(tmp_path: Path, why: str) -> None:
    if why == "no MLP":
        graph = project(tmp_path, save_mamba(tmp_path / "model"))
        message = "activations cannot be computed: no MLP down projection found in MambaModel"
    else:
        model = str(save_llama(tmp_path / "model"))
        graph = project(tmp_path, model, activations={"layers": [1, 7]})
        message = "activations cannot be computed: activations.layers names a layer above 2"
    done = graph.refresh()
    made = materialised(done)
    for source in "ab":
        assert {("embeddings", source), ("difficulty_scores", source)} <= made.keys()
        assert ("activations", source) not in made
    assert {("coreset", "d3"), ("coreset", "weak")} <= made.keys() and ("coreset", "wide") not in made
    assert graph.order("d3").height == 7 and set(graph.pool()["sources"].explode()) == {"a", "b"}
    assert message in errors(done) and f"recipe wide: {message}" in errors(done)  # so that the exit is not 0

    # The next refresh says it again, and computes nothing.
    again = graph.refresh()
    assert message in errors(again) and not materialised(again)

    # Without the recipe all is well.
    graph.settings(coresets={name: spec for name, spec in RECIPES.items() if name != "wide"})
    assert not graph.refresh().failed


def test_a_kind_of_another_package_that_raises_leaves_the_others_their_pass(tmp_path: Path) -> None:
    def raises(*_: object) -> pl.DataFrame:
        raise ZeroDivisionError("no such thing")

    broken = Kind(
        name="broken",
        asset="broken_scores",
        description="A score whose code is wrong.",
        columns=(Column("wrong", pl.Float32(), "never there"), Column("reason", pl.String(), "why not")),
        value="wrong",
        provenance=lambda inputs: {"score": "broken", **inputs.model},
        computation=FromForwardPass(frozenset({"difficulty"}), raises),
    )
    graph = project(tmp_path, str(save_llama(tmp_path / "model")))
    assert not graph.refresh().failed
    graph.settings(difficulty={"beta": 0.5})  # so that there is something to compute
    register(broken)
    try:
        with pytest.raises(KindsNotComputedError, match="broken cannot be computed: ZeroDivisionError") as error:
            update_scores(graph.workspace, "a", frozenset({"difficulty", "broken"}))
    finally:
        unregister("broken")
    report = error.value.reports["difficulty"]
    assert error.value.reports.keys() == {"difficulty"} and report.computed == 20 and report.value.null_count() == 0


def test_an_encoder_that_cannot_be_opened_leaves_the_forward_pass_its_kinds(tmp_path: Path) -> None:
    graph = project(tmp_path, str(save_llama(tmp_path / "model")), embeddings={"path": str(tmp_path / "encoder")})
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text('{"model_type": "bert"}')
    done = graph.refresh()
    assert str(tmp_path / "encoder") in errors(done)
    made = materialised(done)
    assert ("difficulty_scores", "a") in made and ("activations", "b") in made and ("embeddings", "a") not in made
