"""What the graph costs beside the science: many small sources, three recipes, in CPU seconds of `dselect refresh`.

    python -m benchmarks.orchestration                     # 100 sources of 20 rows
    python -m benchmarks.orchestration --sources 1000 --recipes random

Each refresh is the command that a user types, in a process of its own: start-up, imports, plan and the runs of Dagster
are in it. Everything scored is cheap (a small builtin model, the heuristic grader), so what is left is orchestration.
The first refresh is run once; nothing changed is the median of five; one edited row that of three, another row each.

Trade-off: no baseline beside it, for no peer has a graph; the row of the start-up alone (`dselect --help`, and loading
the code location) says what part nothing could take away.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.measure import table

ROWS = 20
RECIPES = {
    "d3": {"strategy": "d3", "budget": "10%"},
    "grade": {"strategy": "topk:grade", "budget": "10%"},
    "random": {"strategy": "random", "budget": "10%"},
}
SMALL = {"hidden_size": 32, "layers": 1, "heads": 2, "window": 128, "steps": 20, "vocab_size": 400}
LOAD = "import sys, dselect_dagster.definitions; sys.exit('torch' in sys.modules)"


def _rows(source: int) -> list[dict[str, str]]:
    words = [f"word{(source * 31 + n * 7) % 997}" for n in range(ROWS)]
    return [
        {"instruction": f"Write {word} and {n} more, from {source}.", "output": f"{word} " * (1 + n % 5)}
        for n, word in enumerate(words)
    ]


def _write(folder: Path, source: int, rows: list[dict[str, str]]) -> None:
    (folder / "data" / f"s{source:04}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_project(folder: Path, sources: int, recipes: list[str]) -> None:
    """Sources, and a dselect.yaml beside them."""
    (folder / "data").mkdir()
    for source in range(sources):
        _write(folder, source, _rows(source))
    settings = {
        "sources": {f"s{source:04}": {"path": f"data/s{source:04}.jsonl"} for source in range(sources)},
        "coresets": {name: RECIPES[name] for name in recipes},
        "warmup": SMALL,
    }
    (folder / "dselect.yaml").write_text(yaml.safe_dump(settings))


def seconds_of(folder: Path, command: list[str]) -> tuple[float, float]:
    """(CPU, wall) seconds of a command with its children. Exits with what it said where it failed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "DSELECT_CONFIG")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=100)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    dselect = str(Path(sys.executable).with_name("dselect"))
    refresh = [dselect, "refresh"]
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, options.sources, options.recipes)
        measured["`dselect --help`"] = [seconds_of(folder, [dselect, "--help"]) for _ in range(3)]
        measured["the code location, without torch"] = [
            seconds_of(folder, [sys.executable, "-c", LOAD]) for _ in range(3)
        ]
        measured["first refresh"] = [seconds_of(folder, refresh)]
        measured["nothing changed"] = [seconds_of(folder, refresh) for _ in range(5)]
        edited = []
        for number in range(3):
            rows = _rows(number)
            rows[number]["output"] = "edited"
            _write(folder, number, rows)
            edited.append(seconds_of(folder, refresh))
        measured["one edited row"] = edited
    print(f"{options.sources} sources of {ROWS} rows, recipes {', '.join(options.recipes)}")
    rows = [
        [what, *(f"{statistics.median(values):.1f}" for values in zip(*figures, strict=True)), str(len(figures))]
        for what, figures in measured.items()
    ]
    print(table(["", "CPU s", "wall s", "times"], rows))


if __name__ == "__main__":
    main()
