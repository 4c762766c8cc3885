"""Coresets are published as immutable versions behind a pointer that moves last: to a folder, to S3, to a hub."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from upath import UPath

from dselect_core.coreset.export import write_coreset
from dselect_core.coreset.published import publish, read_version
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.publish import to_folder
from dselect_core.publish.lost_versions import lost_publications
from dselect_core.publish.publish_coreset import Published, publish_coreset
from dselect_core.publish.release import POINTER
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json, write_json
from tests.core.test_export import SAMPLES, selection
from tests.core.test_published import killed_at

ROOT = Path(__file__).parents[2]
SOURCES = {"a": {"path": "a.json"}, "held": {"path": "held.json", "role": "eval"}}
RECIPES = {"r": {"strategy": "topk:loss", "budget": 3}, "q": {"strategy": "topk:loss", "budget": 4, "trial": True}}


@pytest.fixture(scope="module")
def bucket(s3: dict[str, Any]) -> UPath:
    made = UPath("s3://outside", **s3)
    made.fs.mkdir(made.path)
    return made


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) / "out" if request.param == "disk" else request.getfixturevalue("bucket") / f"{uuid.uuid4()}"


def workspace(folder: Path, place: object, **options: Any) -> Workspace:
    config = folder / "dselect.yaml"
    to = {"to": str(place), "storage_options": dict(getattr(place, "storage_options", {})), "license": "cc-by-4.0"}
    config.write_text(yaml.safe_dump({"sources": SOURCES, "coresets": RECIPES, "publish": to | options}))
    return Workspace(load_settings(config))


def make(workspace: Workspace, budget: int, recipe: str = "r", collapsed: str = "") -> str:
    """Put a coreset of so many rows into the storage; returns its version."""
    chosen = selection(budget)
    version = digest(chosen.order["sample_id"])
    manifest = {"recipe": recipe, "version": version, "scores": {}, "sources": {"a": {"samples": "1"}}}

    def write(folder: UPath, files: Any, record: dict[str, Any]) -> None:
        record["composition"] = {**record["composition"], "collapsed": [collapsed] if collapsed else []}
        publish(folder, files, record)

    write_coreset(workspace.coreset(recipe), chosen, SAMPLES, manifest, write=write)
    return version


def pointer(place: UPath, recipe: str = "r") -> dict[str, Any]:
    return read_json(place / recipe / POINTER)


def versions(place: UPath, recipe: str = "r") -> set[str]:
    """The folders of versions that are there."""
    start = f"{(place / recipe).path}/"
    place.fs.invalidate_cache()
    inside = [path.removeprefix(start) for path in place.fs.find((place / recipe).path)]
    return {path.split("/")[0] for path in inside if "/" in path}


def test_a_version_has_rows_card_and_manifest_and_the_same_choice_is_published_once(
    place: UPath, tmp_path: Path
) -> None:
    of = workspace(tmp_path, place, language=["en", "de"])
    of_rows = make(of, 3)
    first = publish_coreset(of, "r")
    assert first.is_new and versions(place) == {first.release.version}
    told = pointer(place)
    assert (told["version"], told["digest"], told["rows"]) == (first.release.version, of_rows, 3)
    folder = place / "r" / told["version"]
    made = read_version(of.coreset("r"), lambda made: made)
    for name in ("coreset.jsonl", "coreset.parquet", "alpaca.json", "dataset/data/train-00000-of-00001.parquet"):
        assert (folder / name).read_bytes() == made.read(name)
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["language"]) == ("cc-by-4.0", ["en", "de"])
    assert of_rows in card and told["version"] in card and "## Provenance" in card
    manifest = read_json(folder / "manifest.json")
    assert manifest["published_version"] == told["version"] and manifest["license"] == "cc-by-4.0"
    before = {path: place.fs.modified(path) for path in place.fs.find(place.path)}
    again = publish_coreset(of, "r")
    assert not again.is_new and again.release.version == first.release.version
    assert {path: place.fs.modified(path) for path in place.fs.find(place.path)} == before
    # Other rows, and other terms, are another version; the first one stays as it is.
    make(of, 4)
    second = publish_coreset(of, "r")
    third = publish_coreset(workspace(tmp_path, place, language="en"), "r")
    assert pointer(place)["versions"] == [p.release.version for p in (third, second, first)]
    assert versions(place) == {*pointer(place)["versions"]}
    assert read_json(folder / "manifest.json") == manifest


def test_datasets_loads_a_version(tmp_path: Path) -> None:
    import datasets

    of = workspace(tmp_path, "out")
    make(of, 3)
    place = publish_coreset(of, "r").place
    rows = datasets.load_dataset(place, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["sample_id"] == selection(3).order["sample_id"].to_list()


def test_retention_removes_what_no_pointer_names(place: UPath, tmp_path: Path) -> None:
    of = workspace(tmp_path, place, keep=2)
    done: list[Published] = []
    for budget in (1, 2, 3, 4, 5):
        make(of, budget)
        done.append(publish_coreset(of, "r"))
        if budget == 2:  # somebody pins the second
            write_json(pointer(place), place / "r" / "production.json")
            (place / "r" / "notes.json").write_text('{"of": "somebody"}')
    names = [each.release.version for each in done]
    assert pointer(place)["versions"] == [names[4], names[3], names[1]] and versions(place) == {*names[3:], names[1]}
    assert [each.gone for each in done] == [[], [], [names[0]], [], [names[2]]]
    # A version that came back takes the first place and is not written again.
    make(of, 2)
    back = publish_coreset(of, "r")
    assert not back.is_new and pointer(place)["versions"][:2] == [names[1], names[4]]
    (place / "r" / "production.json").unlink()
    make(of, 6)
    assert publish_coreset(of, "r").gone == [names[4]] and (place / "r" / "notes.json").exists()


def test_a_kill_at_any_moment_leaves_the_pointer_at_a_whole_version(tmp_path: Path) -> None:
    place = UPath(tmp_path / "out")
    of = workspace(tmp_path, place)
    make(of, 3)
    first = publish_coreset(of, "r").release.version
    make(of, 4)
    found = []
    for step in range(0, 1000, 3):
        killed = killed_at(step, lambda: publish_coreset(of, "r"))
        found.append(pointer(place)["version"])
        assert (place / "r" / found[-1] / "manifest.json").exists()
        if not killed:
            break
    moved = found.index(found[-1])
    assert moved > 3 and set(found[:moved]) == {first} and found[-1] != first
    # What was begun was gone on with, and is whole.
    manifest = read_json(place / "r" / found[-1] / "manifest.json")
    assert all((place / "r" / found[-1] / name).stat().st_size == of["bytes"] for name, of in manifest["files"].items())


def test_in_an_object_store_a_kill_before_the_pointer_leaves_the_old_one(
    bucket: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket / f"{uuid.uuid4()}"
    of = workspace(tmp_path, place)
    make(of, 3)
    first = publish_coreset(of, "r").release.version
    make(of, 4)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(to_folder, "write_json", die)
        with pytest.raises(Killed):
            publish_coreset(of, "r")
    assert pointer(place)["version"] == first and len(versions(place)) == 2
    done = publish_coreset(of, "r")
    assert not done.is_new and pointer(place)["versions"] == [done.release.version, first]
    # A version that was left and is not chosen any more goes after an hour.
    make(of, 5)
    with monkeypatch.context() as dying:
        dying.setattr(to_folder, "write_json", die)
        with pytest.raises(Killed):
            publish_coreset(of, "r")
    make(of, 4)
    publish_coreset(of, "r")
    assert len(versions(place)) == 3
    monkeypatch.setattr(to_folder, "ORPHAN_SECONDS", -60.0)
    assert len(publish_coreset(of, "r").gone) == 1 and len(versions(place)) == 2


def test_a_check_that_failed_or_is_missing_refuses_and_names_the_remedy(tmp_path: Path) -> None:
    place = UPath(tmp_path / "out")
    of = workspace(tmp_path, place, require=["not_collapsed"])
    with pytest.raises(DselectError, match=r"coreset r is not published: .*run `dselect refresh`"):
        publish_coreset(of, "r")
    make(of, 3)
    first = publish_coreset(of, "r").release.version
    make(of, 4, collapsed="99% of its rows are of a")
    with pytest.raises(DselectError, match=r"not_collapsed failed: 99% .* of a. Give .*`balance`.*`require`"):
        publish_coreset(of, "r")
    tried = workspace(tmp_path, place, require=["beats_random"], recipes=["q"])
    make(tried, 3, "q")
    with pytest.raises(DselectError, match=r"beats_random is missing: not tried yet. `dselect refresh` makes"):
        publish_coreset(tried, "q")
    assert pointer(place)["version"] == first and not (place / "q").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"recipes": ["x"]}, "publish.recipes: no recipe `x`; there are: q, r"),
        ({"require": ["beats_random"]}, "beats_random needs a trial, and `r` has none: give it `trial: true`"),
        ({"to": "hf://org/name"}, "of the hub a dataset is named as hf://datasets/org/name"),
        ({"licence": "mit"}, "unknown key `licence`; did you mean `license`?"),
        ({"keep": 0}, "publish.keep"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DselectError) as raised:
        workspace(tmp_path, "out", **options)
    assert told in str(raised.value)


def test_a_damaged_pointer_is_named_and_nothing_is_removed(tmp_path: Path) -> None:
    of = workspace(tmp_path, "out")
    make(of, 3)
    publish_coreset(of, "r")
    (tmp_path / "out" / "r" / POINTER).write_text("{")
    with pytest.raises(DselectError, match=r"latest\.json"):
        publish_coreset(of, "r")
    assert len(versions(UPath(tmp_path / "out"))) == 1


def test_what_is_lost_outside_is_named_and_written_as_it_was(place: UPath, tmp_path: Path) -> None:
    of = workspace(tmp_path, place, recipes=["r"])
    older, newer = (make(of, budget) and publish_coreset(of, "r").release.version for budget in (3, 4))
    assert lost_publications(of) == {}
    folder = place / "r"
    before = {name: (folder / newer / name).read_bytes() for name in ("coreset.jsonl", "manifest.json")}
    (folder / newer / "coreset.jsonl").unlink()
    assert lost_publications(of) == {"r": f"{place}/r lacks coreset.jsonl of version {newer}"}
    (folder / newer / "coreset.jsonl").write_text("cut")
    assert lost_publications(of) == {"r": f"{place}/r lacks coreset.jsonl of version {newer}"}
    assert publish_coreset(of, "r").is_new and lost_publications(of) == {}
    (folder / newer / "manifest.json").unlink()
    assert lost_publications(of) == {"r": f"{place}/r has no whole version {newer}"}
    assert publish_coreset(of, "r").is_new and lost_publications(of) == {}
    assert before == {name: (folder / newer / name).read_bytes() for name in before}
    (folder / POINTER).unlink()
    assert lost_publications(of) == {"r": f"{place}/r has no {POINTER}"}
    assert not publish_coreset(of, "r").is_new and pointer(place)["version"] == newer
    # A person went back to a version that is whole: that is theirs to do.
    write_json({"version": older}, folder / POINTER)
    assert lost_publications(of) == {}


def test_a_place_that_does_not_answer_has_lost_nothing_and_is_told(
    s3: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**s3, "endpoint_url": "http://127.0.0.1:9"}
    of = workspace(tmp_path, "s3://nowhere/at-all", recipes=["r"], storage_options=options)
    assert lost_publications(of) == {}
    assert "s3://nowhere/at-all does not answer: what is published there was not looked at" in caplog.text


# The hub's address is read once, when its client is imported: hence a process of its own.
SCRIPT = """
import json, sys
from pathlib import Path
from dselect_core.errors import DselectError
from dselect_core.publish.lost_versions import lost_publications
from dselect_core.publish.publish_coreset import publish_coreset
from dselect_core.settings.workspace import Workspace
from dselect_core.settings.settings import load_settings
from tests.core.test_publish import make
of = Workspace(load_settings(Path(sys.argv[1])))
for budget, recipe in json.loads(sys.argv[2]):
    make(of, budget, recipe)
    try:
        done = publish_coreset(of, recipe)
        print(json.dumps([done.release.version, done.is_new, done.gone]), flush=True)
    except DselectError as error:
        print(json.dumps(str(error)), flush=True)
if len(sys.argv) > 3:
    import datasets
    for recipe in sys.argv[3:]:
        print(json.dumps(datasets.load_dataset("org/name", recipe, split="train")["sample_id"][:]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A hub's folder with one dataset, and its address."""
    root = tmp_path / "hub"
    (root / "org" / "name").mkdir(parents=True)
    (root / "org" / "name" / ".gitattributes").write_text("")
    command = [sys.executable, "-m", "tests.core.corpus_hub", str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield root / "org" / "name", process.stdout.readline().strip()
        process.kill()


def on_hub(
    address: str, config: Path, *made: tuple[int, str], load: tuple[str, ...] = (), script: str = SCRIPT
) -> list[Any]:
    online = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
    own = {"HF_ENDPOINT": address, "HF_HOME": str(config.parent / "home"), "HF_TOKEN": "hf_test"}
    path = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-c", script, str(config), json.dumps(made), *load]
    environment = {**os.environ, **online, **own, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_to_a_hub_a_version_its_pointer_and_the_card_are_one_commit(hub: tuple[Path, str], tmp_path: Path) -> None:
    repo, address = hub
    workspace(tmp_path, "hf://datasets/org/name", keep=2)
    config = tmp_path / "dselect.yaml"
    made = [(3, "r"), (3, "r"), (4, "q"), (5, "r"), (6, "r")]
    first, again, other, second, third, of_r, of_q = on_hub(address, config, *made, load=("r", "q"))
    assert [each[1] for each in (first, again, other, second, third)] == [True, False, True, True, True]
    assert again[0] == first[0] and third[2] == [first[0]]
    commits = [json.loads(line) for line in (repo.parent / "name.commits").read_text().splitlines()]
    assert [commit["summary"] for commit in commits] == [
        f"{recipe}: version {version}"
        for recipe, version in (("r", first[0]), ("q", other[0]), ("r", second[0]), ("r", third[0]))
    ]
    assert {f"r/{first[0]}/manifest.json", "r/latest.json", "README.md"} <= {*commits[0]["added"]}
    assert {path.split("/")[1] for path in commits[3]["deleted"]} == {first[0]}
    assert json.loads((repo / "r" / POINTER).read_text())["versions"] == [third[0], second[0]]
    assert of_r == selection(6).order["sample_id"].to_list() and of_q == selection(4).order["sample_id"].to_list()


LOST = """
import json, sys
from pathlib import Path
from dselect_core.publish.lost_versions import lost_publications
from dselect_core.settings.workspace import Workspace
from dselect_core.settings.settings import load_settings
print(json.dumps(lost_publications(Workspace(load_settings(Path(sys.argv[1]))))))
"""


def test_what_is_lost_on_a_hub_is_named_and_comes_back(hub: tuple[Path, str], tmp_path: Path) -> None:
    repo, address = hub
    workspace(tmp_path, "hf://datasets/org/name", recipes=["r"])
    config = tmp_path / "dselect.yaml"
    ((version, _, _),) = on_hub(address, config, (3, "r"))
    (repo / "r" / version / "coreset.jsonl").unlink()
    (lost,) = on_hub(address, config, script=LOST)
    assert lost == {"r": f"hf://datasets/org/name/r lacks coreset.jsonl of version {version}"}
    assert on_hub(address, config, (3, "r")) == [[version, True, []]]
    assert on_hub(address, config, script=LOST) == [{}]
    assert on_hub("http://127.0.0.1:9", config, script=LOST) == [{}]


def test_a_hub_without_the_dataset_and_one_that_is_not_there_say_what_to_do(
    hub: tuple[Path, str], tmp_path: Path
) -> None:
    workspace(tmp_path, "hf://datasets/org/other")
    (told,) = on_hub(hub[1], tmp_path / "dselect.yaml", (3, "r"))
    assert "hf://datasets/org/other: no such dataset" in told and "hf repo create org/other" in told
    (told,) = on_hub("http://127.0.0.1:9", tmp_path / "dselect.yaml", (3, "r"))
    assert "hf://datasets/org/other: the hub refuses, or cannot be reached" in told
