"""Scores by workers of a real Ray cluster on this machine: nodes that die, that come late, work that fails or stops."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.compute import ray_engine, ray_workers
from dselect_core.compute.ray_engine import compute_on_ray
from dselect_core.compute.ray_workers import Workers, workers_of
from dselect_core.compute.shards import Outcome, Shard
from dselect_core.errors import DselectError
from dselect_core.graders import grades
from dselect_core.progress import Progress
from dselect_core.settings.compute_spec import ComputeSpec
from dselect_core.stop import Stopped
from dselect_core.trials.report import read_report
from dselect_core.trials.run_work import RunsWork
from dselect_core.trials.trial import Trial
from dselect_core.trials.tune_and_measure import TrialWork
from dselect_dagster.defs.progress_log import listen_to_progress
from tests.e2e.conftest import RECIPES, WORDS
from tests.e2e.content import assert_same, assert_same_order, assert_same_table
from tests.e2e.graph import Graph, alpaca, made, materialised
from tests.local_graders import save_judge, save_reward_model
from tests.seaweedfs import SeaweedFS
from tests.tiny import save_llama

# A cluster takes its time where other tests are at work, and the signal of a timeout would end what Ray is about.
pytestmark = pytest.mark.timeout(1200)

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
MODEL_SCORES = {("embeddings", "a"), ("difficulty_scores", "a"), ("activations", "a"), ("miwv_values", None)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, for it is where this process is, and one node that holds one worker."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**NODE)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def ready(spec: ComputeSpec, count: int) -> Workers:
    """The workers of this process, when so many have come up."""
    workers = workers_of(spec)
    stop = time.monotonic() + 240
    while len(workers.idle) < count:
        assert time.monotonic() < stop
        workers.start(count, 0)
        for ref in workers.ray.wait(list(workers.starting), timeout=1)[0]:
            workers.started(ref)
    return workers


def on_ray(folder: Path, cluster: Any, **compute: Any) -> Graph:
    """The sources and recipes of `first`, that no score was made of yet. Shards of 4 rows."""
    graph = Graph(folder)
    graph.source("a", alpaca(WORDS))
    graph.source("b", [*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]])
    graph.sources("ab")
    graph.settings(
        coresets=RECIPES, parts={"rows": 4}, compute={"engine": "ray", "address": cluster.address, **compute}
    )
    return graph


def test_a_node_that_is_killed_in_the_middle(
    first: Graph, cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dselect_core.compute")
    node = cluster.add_node(**NODE)
    graph = on_ray(tmp_path, cluster)
    ready(graph.workspace.settings.compute, 2)
    killed: list[int] = []

    def kill(unit: str, done: int, total: int, reused: int) -> None:
        if unit.endswith("of a") and "difficulty" in unit and not killed:
            killed.append(done)
            cluster.remove_node(node, allow_graceful=False)

    with listen_to_progress(kill):
        done = graph.refresh()
    assert made(done) >= MODEL_SCORES
    assert killed and killed[0] < len(WORDS)
    assert "is lost (" in caplog.text and "its 4 rows are given to another" in caplog.text
    assert_same(graph, first)
    # What was computed by workers is what a run here finds: nothing is left to do, and no setting moved.
    graph.settings(compute={"engine": "local"})
    assert made(graph.refresh()) == set()


def test_a_node_that_comes_in_the_middle(
    first: Graph, cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dselect_core.compute")
    graph = on_ray(tmp_path, cluster, workers=2)
    workers = ready(graph.workspace.settings.compute, 1)
    added: list[Any] = []

    def add(unit: str, done: int, total: int, reused: int) -> None:
        if unit.endswith("of a") and "difficulty" in unit and not added:
            assert len(workers.starting) == 1, "the second worker has no room yet"
            added.append(cluster.add_node(**NODE))
            assert workers.ray.wait(list(workers.starting), timeout=240)[0]

    with listen_to_progress(add):
        figures = materialised(graph.refresh())
    assert added and figures.keys() >= MODEL_SCORES
    assert "by worker 1 on" in caplog.text and "by worker 2 on" in caplog.text
    assert_same(graph, first)
    cluster.remove_node(added[0], allow_graceful=False)


def test_judges_and_reward_models(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graders = {
        "judge": {"judge": str(save_judge(tmp_path / "judge"))},
        "reward": {"reward_model": str(save_reward_model(tmp_path / "reward"))},
    }
    recipes = {name: {"strategy": "topk:grade", "budget": 5, "grade": name} for name in graders}
    for name in ("local", "remote"):
        (tmp_path / name).mkdir()
    local, remote = Graph(tmp_path / "local"), on_ray(tmp_path / "remote", cluster)
    local.source("a", alpaca(WORDS))
    local.source("b", [*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]])
    local.sources("ab")
    for graph in (local, remote):
        graph.settings(graders=graders, coresets=recipes)
        assert ("dependability_grades", "a") in made(graph.refresh())
        monkeypatch.setattr(grades, "grade", lambda *_, **__: pytest.fail("graded in this process"))
    for name in graders:
        kind = f"grades@{name}"
        assert local.scores(kind)["grade"].n_unique() > 5
        assert_same_table(local.scores(kind), remote.scores(kind), kind)
        assert_same_order(remote.order(name), local.order(name), name)
    remote.settings(compute={})
    assert remote.refresh().runs == []


def test_trials(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its runs are tuned by workers, one of which is lost in the middle, and are those of a trial here."""
    trials = {"seeds": 2, "draws": 3, "multiples": [], "baselines": [], "epochs": 1, "precision": "float32"}
    model = {"path": str(save_llama(tmp_path / "model"))}
    recipes = {"some": {"strategy": "random", "budget": 6, "trial": True}}
    reports = {}
    caplog.set_level(logging.INFO, "dselect_core.compute")
    for name in ("local", "remote"):
        (tmp_path / name).mkdir()
        graph = Graph(tmp_path / name)
        graph.source("a", alpaca(WORDS))
        graph.source("held", alpaca(WORDS[:5], offset=70))
        compute = {"engine": "ray", "address": cluster.address} if name == "remote" else {}
        graph.settings(
            model=model, coresets=recipes, trials=trials, compute=compute,
            sources={"a": {"path": "data/a.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        )  # fmt: skip
        if name == "local":
            assert ("trial", "some") in made(graph.refresh())
        else:
            monkeypatch.setattr(TrialWork, "tune", lambda *_: pytest.fail("tuned in this process"))
            node = cluster.add_node(**NODE)
            ready(graph.workspace.settings.compute, 2)
            told: list[int] = []

            def kill(unit: str, done: int, total: int, reused: int, node: Any = node, told: list[int] = told) -> None:
                told += [done] if "trial" in unit else []
                if len(told) == 4:  # the first is of the untuned model, the others come twice a second
                    cluster.remove_node(node, allow_graceful=False)

            with listen_to_progress(kill):
                assert ("trial", "some") in made(graph.refresh())
            assert "is lost (" in caplog.text
        reports[name] = read_report(graph.workspace, "some")
    own = Trial.of(graph.workspace, "some").runs[0].fingerprint
    late = RunsWork(graph.workspace, "some", until=0)
    assert late(Shard(pl.DataFrame({"run": [own]}), pl.DataFrame()), None) == Outcome()  # the time is over
    with pytest.raises(DselectError, match="tune otherwise than the run's machine"):
        replace(late, until=None)(Shard(pl.DataFrame({"run": ["x"]}), pl.DataFrame()), None)
    ours, theirs = reports["local"], reports["remote"]
    assert theirs is not None and (theirs.tuned, theirs.reused, theirs.measured) == (5, 0, 6)
    assert (theirs.version, theirs.tokens) == (ours.version, ours.tokens)
    for one, other in zip(ours.table, theirs.table, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), key
    assert graph.refresh().runs == []


def test_storage_on_s3(first: Graph, cluster: Any, tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path, "key", "secret")
    server.start()
    try:
        server.client().mkdir("corpus")
        (tmp_path / "project").mkdir()
        graph = on_ray(tmp_path / "project", cluster)
        options = {"endpoint_url": server.url, "key": "key", "secret": "secret"}
        graph.settings(storage="s3://corpus/out", storage_options=options)
        assert made(graph.refresh()) >= MODEL_SCORES
        for kind in ("difficulty", "embeddings", "activations"):
            assert_same_table(graph.scores(kind), first.scores(kind), kind)
        assert graph.pool().equals(first.pool())
    finally:
        server.stop()


@dataclass(frozen=True)
class Marking:
    """Leaves a mark for each shard that it begins; then does what `then` says to the shard that holds row 5."""

    folder: Path
    then: str

    def there(self) -> "Marking":
        return self

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        (self.folder / f"{shard.rows['sample_id'][0]}-{time.monotonic_ns()}").touch()
        assert shard.samples["sample_id"].to_list() == shard.rows["sample_id"].to_list() and progress is not None
        if "5" in shard.rows["sample_id"]:
            if self.then == "fail":
                raise DselectError("row 5 is bad. Mend it")
            if self.then == "break":
                raise ZeroDivisionError("nobody foresaw row 5")
            if self.then == "die":
                os._exit(1)
            try:
                for _ in range(600):
                    time.sleep(0.05)
                    progress(1, 4)
            except Stopped:
                (self.folder / "stopped").touch()
                raise
        return Outcome(shard.rows.height)


def compute(work: Marking, cluster: Any, progress: Progress | None = None) -> Outcome:
    ids = pl.DataFrame({"sample_id": [str(number) for number in range(8)]})
    return compute_on_ray(ComputeSpec(engine="ray", address=cluster.address), work, Shard(ids, ids), 4, progress)


def marks(folder: Path, row: str) -> int:
    return len(list(folder.glob(f"{row}-*")))


def test_an_error_ends_the_work_at_once_and_as_it_would_here(cluster: Any, tmp_path: Path) -> None:
    assert compute(Marking(tmp_path, ""), cluster).tokens == 8
    with pytest.raises(DselectError, match=r"^row 5 is bad. Mend it$"):
        compute(Marking(tmp_path, "fail"), cluster)
    with pytest.raises(ZeroDivisionError, match="nobody foresaw"):
        compute(Marking(tmp_path, "break"), cluster)
    assert marks(tmp_path, "4") == 3


def test_rows_that_end_every_worker_are_not_tried_for_ever(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "TRIES", 2)
    with pytest.raises(DselectError, match=r"2 workers.*from sample 4 on.*batch_tokens"):
        compute(Marking(tmp_path, "die"), cluster)
    assert marks(tmp_path, "4") == 2


def test_a_stop_ends_the_workers(cluster: Any, tmp_path: Path) -> None:
    workers = ready(ComputeSpec(engine="ray", address=cluster.address), 1)
    actors = [worker.actor for worker in workers.idle]

    def stop(done: int, total: int, reused: int = 0) -> None:
        if done > 4:
            raise Stopped

    with pytest.raises(Stopped):
        compute(Marking(tmp_path, "wait"), cluster, stop)
    assert (tmp_path / "stopped").exists(), "it ended between two batches"
    # Ray ends a process some time after it was told to; until then it answers.
    stop_at = time.monotonic() + 120
    while any(answers(workers, actor) for actor in actors):
        assert time.monotonic() < stop_at
        time.sleep(0.2)


def answers(workers: Workers, actor: Any) -> bool:
    """Whether a worker's process is there."""
    try:
        workers.ray.get(actor.done.remote())
    except workers.ray.exceptions.RayActorError:
        return False
    return True


def test_a_worker_of_another_version(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "__version__", "9.9")
    with pytest.raises(DselectError, match=r"has dselect 0.* this run 9\.9"):
        ready(ComputeSpec(engine="ray", address=cluster.address, workers=1), 1)
