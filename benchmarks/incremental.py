"""What a refresh costs after 1% new rows, another budget, and nothing: as a share of the full run on the same corpora.

    DSELECT_CORPORA=<folder> python benchmarks/incremental.py [--rows N] [--warmup hidden_size=64 layers=2 …]

The folder's files and sub-folders are the sources: JSON arrays or JSON lines, gzipped or not, any shape dselect reads.
They are copied with every hundredth row held out; the full run makes three coresets from the rest (built-in model and
grader), and the held-out rows then come back as one more file a source. Each refresh is the command a user types, in a
process of its own, so start-up, imports and opening the model are in its seconds; tokens are those the model was given.

What this trades off: a full run takes minutes to an hour, so it is run once. Nothing changed is the median of five,
new rows that of three, each in a copy of the project, since scores that were computed once are found again. A smaller
model (`--warmup`) makes the full run shorter and leaves what is fixed as it is, so its shares of the seconds are the
worse ones. Peers are shown by what they do with a row inserted at the top (peers_on_edit.py), where they are present:
their seconds would compare other models and other scores.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import peers_on_edit
import yaml

from dselect_dagster.refresh.instance import open_instance

HELD_OUT = 100  # one row in so many
REPEATS = 5
RECIPES = {
    "d3-10pct": {"strategy": "d3", "budget": "10%"},
    "miwv-1pct": {"strategy": "miwv", "budget": "1%"},
    "mads-15pct": {"strategy": "mads", "budget": "15%"},
}


@dataclass(frozen=True)
class Refresh:
    """One run of the command: its seconds, tokens through the model, and seconds and rows computed by asset."""

    seconds: float
    tokens: int
    by_asset: dict[str, tuple[float, int]]


def rows_of(path: Path) -> list[Any]:
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def copy(corpora: Path, folder: Path, limit: int | None) -> dict[str, list[Any]]:
    """Write the sources without the held-out rows; returns those by source."""
    held_out: dict[str, list[Any]] = {}
    entries = sorted(p for p in corpora.iterdir() if p.is_dir() or ".json" in p.name)
    for entry in entries:
        name = entry.name.split(".")[0]
        files = sorted(entry.rglob("*.json*")) if entry.is_dir() else [entry]
        seen = 0
        held_out[name] = []
        for file in files:
            kept = []
            for row in rows_of(file) if file.stat().st_size else []:
                seen += 1
                if limit is not None and seen > limit // len(entries):
                    break
                (held_out[name] if seen % HELD_OUT == 0 else kept).append(row)
            if kept:
                write(folder / name / f"{file.name.split('.')[0]}.jsonl", kept)
    return held_out


class Project:
    def __init__(self, folder: Path, warmup: dict[str, int]):
        self.folder, self.config, self.warmup = folder, folder / "dselect.yaml", warmup

    def settings(self, sources: list[str], coresets: dict[str, Any]) -> None:
        held = {"sources": {name: {"path": f"data/{name}"} for name in sources}, "coresets": coresets}
        if self.warmup:
            held["warmup"] = self.warmup
        self.config.write_text(yaml.safe_dump(held))

    def copy(self, i: int) -> "Project":
        return Project(Path(shutil.copytree(self.folder, self.folder.with_name(f"copy-{i}"))), self.warmup)

    def refresh(self) -> Refresh:
        os.environ.pop("DAGSTER_HOME", None)
        before = time.time()
        start = time.perf_counter()
        command = [str(Path(sys.executable).with_name("dselect")), "refresh"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return Refresh(seconds, *self._figures(before))

    def _figures(self, since: float) -> tuple[int, dict[str, tuple[float, int]]]:
        tokens: dict[tuple[str, str | None], int] = {}
        by_asset: dict[str, tuple[float, int]] = {}
        with open_instance(self.config) as instance:
            for key in instance.all_asset_keys():
                wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since)
                asset = key.to_user_string()
                for record in instance.fetch_materializations(wanted, limit=1000).records:
                    assert record.asset_materialization is not None
                    shown = {name: value.value for name, value in record.asset_materialization.metadata.items()}
                    seconds, rows = by_asset.get(asset, (0.0, 0))
                    by_asset[asset] = (
                        seconds + float(shown.get("seconds") or 0),  # type: ignore[arg-type]
                        rows + int(shown.get("rows computed") or 0),  # type: ignore[call-overload]
                    )
                    # The assets of one pass all name its tokens.
                    one = (asset if asset == "miwv_values" else "pass", record.partition_key)
                    tokens[one] = max(tokens.get(one, 0), int(shown.get("tokens") or 0))  # type: ignore[call-overload]
        return sum(tokens.values()), by_asset


def line(what: str, refresh: Refresh, full: Refresh) -> str:
    share = f"{refresh.tokens / full.tokens:7.2%}" if full.tokens else ""
    return f"{what:44} {refresh.tokens:>12,} {share} {refresh.seconds:>9.1f} {refresh.seconds / full.seconds:7.2%}"


def details(refresh: Refresh) -> str:
    told = sorted(refresh.by_asset.items(), key=lambda item: -item[1][0])
    return "; ".join(f"{asset} {seconds:.1f} s, {rows:,} rows" for asset, (seconds, rows) in told if seconds >= 0.05)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--corpora", type=Path, default=os.environ.get("DSELECT_CORPORA"))
    arguments.add_argument("--rows", type=int, default=None, help="rows in all, to try the benchmark itself")
    arguments.add_argument("--warmup", nargs="*", default=[], help="settings of the built-in model, as key=number")
    given = arguments.parse_args()
    if given.corpora is None:
        raise SystemExit("name a folder of corpora: --corpora, or DSELECT_CORPORA")
    with tempfile.TemporaryDirectory() as scratch:
        project = Project(
            Path(scratch) / "project", {key: int(value) for key, value in (w.split("=") for w in given.warmup)}
        )
        held_out = copy(given.corpora, project.folder / "data", given.rows)
        project.settings(list(held_out), RECIPES)
        full = project.refresh()
        print(f"{'refresh':44} {'LM tokens':>12} {'share':>7} {'seconds':>9} {'share':>7}")
        print(line("full run", full, full), flush=True)
        print(f"    {details(full)}", flush=True)

        nothing = [project.refresh() for _ in range(REPEATS)]
        middle = statistics.median(r.seconds for r in nothing)
        print(line(f"nothing changed (median of {REPEATS})", Refresh(middle, nothing[0].tokens, {}), full), flush=True)

        for budget in ("5%", "12%"):
            project.settings(list(held_out), RECIPES | {"d3-10pct": {"strategy": "d3", "budget": budget}})
            made = project.refresh()
            print(line(f"another budget: d3 10% → {budget}", made, full), flush=True)
            print(f"    {details(made)}", flush=True)
            project.settings(list(held_out), RECIPES)
            project.refresh()

        for name, rows in held_out.items():
            write(project.folder / "data" / name / "added.jsonl", rows)
        added = sum(map(len, held_out.values()))
        more = sorted((project.copy(i).refresh() for i in range(3)), key=lambda refresh: refresh.seconds)[1]
        print(line(f"{added:,} new rows in {len(held_out)} sources (median of 3)", more, full), flush=True)
        print(f"    {details(more)}", flush=True)
        inside = sum({a: s for a, (s, _) in more.by_asset.items() if a not in ONE_PASS}.values())
        inside += max((more.by_asset.get(a, (0.0, 0))[0] for a in ONE_PASS), default=0.0)
        print(f"    {more.seconds - inside:.1f} s are outside the assets: start-up, imports, plan, runs of Dagster")
    peers_on_edit.main()


ONE_PASS = ("difficulty_scores", "embeddings", "activations")

if __name__ == "__main__":
    main()
