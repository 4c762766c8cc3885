"""The public face of dselect_core: the README's example as it is printed, each part alone, and a stranger's types."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dselect_core as ds
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from tests.openai_server import OpenAIServer, rating
from tests.tiny import save_llama

ROOT = Path(__file__).parents[2]
ROWS = [
    {"instruction": f"Say {n} in words", "input": "", "output": f"{n} and " * (n % 4 + 1) + "no more"}
    for n in range(30)
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "alpaca.json").write_text(json.dumps([*ROWS, {"instruction": "Blank", "output": ""}]))
    save_llama(tmp_path / "model")
    return tmp_path


def example() -> str:
    """The Python block of the README."""
    block = re.search(r"```python\n(import dselect_core as ds\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def test_the_readmes_example_runs(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    for there, here in (("my-files/alpaca.json", "alpaca.json"), ("Qwen/Qwen2.5-0.5B", "./model")):
        assert there in code
        code = code.replace(there, here)
    monkeypatch.chdir(files)
    names: dict[str, object] = {}
    exec(code, names)
    lines = [json.loads(line) for line in (files / "coreset" / "coreset.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    chosen = names["chosen"]
    assert isinstance(chosen, ds.Selection)
    assert [line["sample_id"] for line in lines] == chosen.order["sample_id"].to_list()


def test_a_judge_is_asked_for_rows_that_can_still_be_chosen(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    samples = ds.read_rows(files / "alpaca.json").samples
    scores = ds.score(samples, ["difficulty", "embeddings"], ds.load_model(files / "model"))
    with OpenAIServer(lambda request: rating(2 + len(request.text) % 4)) as server:
        grader = GraderSpec(base_url=server.base_url, model="judge-1")
        settings = Settings(sources={}, coresets={}, grader=grader)

        def ask(ids: pl.Series) -> pl.DataFrame:
            rows = samples.filter(pl.col("sample_id").is_in(ids.implode()))
            return ds.score(rows, ["grades"], settings=settings)["grades"]

        chosen = ds.choose(ds.make_pool(scores), "d3", 3, grade=ask)
        asked = len(graded := [request for request in server.requests if "in words" in request.text])
        assert len({request.text for request in graded}) == asked < 30
        scores["grades"] = ask(samples["sample_id"])
    assert chosen.order.equals(ds.choose(ds.make_pool(scores), "d3", 3).order.select(chosen.order.columns))


def test_every_kind_and_strategy_goes_through_it(files: Path) -> None:
    rows = ds.read_rows(files / "alpaca.json")
    assert (rows.samples.height, rows.quarantined) == (30, 1)
    model = ds.load_model(files / "model")
    scores = ds.score(rows.samples, ["miwv", "embeddings", "activations", "grades"], model)
    assert set(scores) == {"difficulty", "embeddings", "prompts", "activations", "grades", "miwv"}
    assert all(frame["sample_id"].equals(rows.samples["sample_id"]) for frame in scores.values())
    pool = ds.make_pool(scores)
    for strategy in ("d3", "miwv", "mads", "facility-location", "deita", "kcenter", "random", "topk:shot_similarity"):
        assert ds.choose(pool, strategy, "10%").rows <= 3
    top = scores["miwv"].sort("miwv", "sample_id", descending=[True, False])["miwv"][0]
    assert ds.choose(pool, "miwv", 1).order["miwv"][0] == pytest.approx(top, abs=2**-16)


def test_rows_near_to_examples_of_what_a_model_should_be_good_at(files: Path) -> None:
    samples, model = ds.read_rows(files / "alpaca.json").samples, ds.load_model(files / "model")
    (files / "wanted.json").write_text(json.dumps([ROWS[7], {"instruction": "Count to 3", "output": "1 and 2 and 3"}]))
    wanted = ds.read_rows(files / "wanted.json").samples
    of_pool, of_wanted = (ds.score(each, ["weighted_embeddings"], model) for each in (samples, wanted))
    chosen = ds.choose(ds.make_pool(of_pool, targets=of_wanted["weighted_embeddings"]), "targeted", 29)
    assert chosen.order["target"].to_list() == [sorted(wanted["sample_id"])[turn % 2] for turn in range(29)]
    own = set(samples["sample_id"]) & set(wanted["sample_id"])
    assert chosen.excluded.rows() == [(sample_id, "held out: it is a target example") for sample_id in own]
    with pytest.raises(ds.DselectError, match="has no examples to be near to"):
        ds.choose(ds.make_pool(of_pool), "targeted", 3)


def test_ones_own_vectors_and_scores() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    own = pl.DataFrame({"sample_id": ["d", "c", "b", "a"], "upd": [0.9, 0.1, 0.5, 0.4], "grade": [1.0, 1.0, 1.0, 0.5]})
    chosen = ds.choose(ds.Pool.of(own, embeddings=vectors), "d3", budget=3)
    assert chosen.order["sample_id"].to_list()[0] == "d"
    assert "c" not in chosen.order["sample_id"]
    with pytest.raises(ds.DselectError, match="did you mean `d3`"):
        ds.choose(ds.Pool.of(own, embeddings=vectors), "d4", budget=3)
    with pytest.raises(ds.DselectError, match="`threshold` is an option of deita"):
        ds.choose(ds.Pool.of(own, embeddings=vectors), "d3", budget=3, threshold=0.5)
    with pytest.raises(ds.DselectError, match="make the difficulty scores first"):
        ds.choose(ds.Pool.of(own.drop("upd"), embeddings=vectors), "d3", budget=3)


def test_what_a_model_is_measured_on_is_never_chosen(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {i}", "output": f"{i} " * 20} for i in range(10)]
    for name, of in (("pool", rows), ("test", [{"instruction": "say: 3!", "output": "3"}, rows[4]])):
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    samples, measured = (ds.read_rows(tmp_path / f"{name}.json").samples for name in ("pool", "test"))
    held_out = ds.hold_out(samples, {"test": measured})
    assert held_out.height == 2
    pool = ds.make_pool({"grades": ds.score(samples, ["grades"])["grades"]}, held_out)
    selection = ds.choose(pool, "random", 8)
    assert not set(selection.order["sample_id"]) & set(held_out["sample_id"])
    assert selection.excluded.equals(held_out)
    with pytest.raises(ds.DselectError, match=r"the 8 of 10 samples .* \(2 held out\)"):
        ds.choose(pool, "random", 9)


def test_a_score_of_the_model_without_a_model_says_so(files: Path) -> None:
    with pytest.raises(ds.DselectError, match="`difficulty` is computed by a model"):
        ds.score(ds.read_rows(files / "alpaca.json").samples, ["difficulty"])
    with pytest.raises(ds.DselectError, match="unknown kind of score `upd`; known: difficulty"):
        ds.score(ds.read_rows(files / "alpaca.json").samples, ["upd"])


def test_importing_the_package_loads_no_model_library_and_no_dagster() -> None:
    code = "import sys, dselect_core as ds; ds.Pool; ds.choose; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "faiss", "datasets", "dagster"} & set(modules)


STRANGER = """
import dselect_core as ds

rows = ds.read_rows("x.json")
scores = ds.score(rows.samples, ["difficulty"], ds.load_model("m", dtype="bfloat16"))
chosen: ds.Selection = ds.choose(ds.make_pool(scores), "d3", budget="10%")
counts: dict[str, int] = ds.export(chosen, rows.samples, "out")
reveal_type(chosen.rows)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("dselect-*.whl"))


def test_the_wheel_holds_the_packages_and_no_demo(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert top == {"dselect_core", "dselect_dagster", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    assert {"dselect_core/py.typed", "dselect_dagster/py.typed", "dselect_core/graders/rubric.md"} <= set(names)
    metadata = zipfile.ZipFile(wheel).read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/METADATA").decode()
    assert "Classifier: Typing :: Typed" in metadata
    assert "Project-URL: " in metadata


def test_a_strangers_types_are_checked_against_the_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "stranger.py").write_text(STRANGER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "stranger.py"]
    # The wheel's folder comes first on the path, before the checkout that is installed here for development.
    checked = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert 'Revealed type is "int"' in checked.stdout, checked.stdout + checked.stderr
    assert "stranger.py" not in re.sub(r"stranger.py:\d+: note.*\n", "", checked.stdout), checked.stdout
