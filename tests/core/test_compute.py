"""Rows that are cut into shards, against brute force; and what is said where there is no Ray, or no cluster."""

import sys

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from dselect_core.compute.ray_cluster import connected
from dselect_core.compute.ray_engine import MIN_SHARD_ROWS, shard_rows
from dselect_core.compute.shards import Shard, cut
from dselect_core.errors import DselectError, UnreachableError
from dselect_core.settings.compute_spec import ComputeSpec


@pytest.mark.parametrize("seed", range(20))
def test_each_shard_has_its_rows_in_order_and_just_the_samples_that_they_name(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"{number:03}" for number in rng.permutation(int(rng.integers(1, 60)))]
    samples = pl.DataFrame({"sample_id": ids, "text": [f"text of {id}" for id in ids]})
    shots = pl.Series(rng.choice(np.array([*ids, None], dtype=object), 40).tolist(), dtype=pl.String)
    rows = pl.DataFrame({"sample_id": rng.choice(ids, 40), "shot_id": shots, "score": rng.random(40)})
    size = int(rng.integers(1, 50))
    shards = list(cut(Shard(rows, samples), size))
    assert pl.concat([shard.rows for shard in shards]).equals(rows)
    for shard in shards:
        assert 1 <= shard.rows.height <= size
        named = {*shard.rows["sample_id"], *shard.rows["shot_id"].drop_nulls()}
        assert shard.samples.equals(samples.filter(pl.col("sample_id").is_in(list(named))))


def test_shards_are_several_a_worker_and_never_larger_than_a_part() -> None:
    assert shard_rows(100_000, 4_096, 4) == 4_096
    assert shard_rows(8_000, 4_096, 4) == 500
    assert shard_rows(100, 4_096, 4) == MIN_SHARD_ROWS
    assert shard_rows(100, 8, 4) == 8


@pytest.mark.parametrize(
    ("address", "error", "told"),
    [
        ("127.0.0.1:9", UnreachableError, "`127.0.0.1:9` does not answer"),
        ("ray://127.0.0.1:9", UnreachableError, "or say `engine: local`"),
        ("head", DselectError, "Write `host:6379`"),
        ("head:99999999", DselectError, "Write `host:6379`"),
    ],
)
def test_an_address_without_a_cluster_is_told_at_once(address: str, error: type[DselectError], told: str) -> None:
    with pytest.raises(error) as raised:
        connected(ComputeSpec(engine="ray", address=address))
    assert type(raised.value) is error and told.lower() in str(raised.value).lower()


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DselectError, match=r"pip install 'dselect\[ray\]'"):
        connected(ComputeSpec(engine="ray"))


@pytest.mark.parametrize("given", [{"workers": 2}, {"address": "auto"}, {"engine": "ray", "gpus_per_worker": 1.5}])
def test_what_means_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ComputeSpec.model_validate(given)


def test_settings_that_were_written_out_whole_are_read_again() -> None:
    for spec in (ComputeSpec(), ComputeSpec(engine="ray", workers=2)):
        assert ComputeSpec.model_validate(spec.model_dump()) == spec
