"""Every strategy against random draws, with a real model on real rows: the figures of docs/evidence.md.

    EVIDENCE_CORPORA=<folder> EVIDENCE_MODEL=<folder> python benchmarks/evidence.py [rows] [score] [try] [tables]

or --corpora and --model. Corpora: a folder whose files and sub-folders are the sources, of any shape dselect reads.
Model: a Hugging Face causal LM with a chat template. --work (./evidence by default) becomes an ordinary project:

- rows    a pool and held-out rows from the corpora (evidence_rows.py), and a dselect.yaml of a recipe for each strategy
          and budget, by rows and by response tokens;
- score   a reward model (evidence_reward.py), and `dselect refresh` of the project: scores and coresets;
- try     the runs of `dselect_core.trials`, the most important first (evidence_grid.py), by --processes at once; those
          that the files in --tables have are not run again;
- tables  CSV files into --tables, and the table in Markdown on the screen (evidence_report.py).

Without a step: all of them. Each goes on where it stopped. Nothing is tuned to make a strategy win: model, steps and
rate are the same for all, and were chosen on a random draw. `targeted` sees examples of each held-out kind, which are
in neither the pool nor the held-out rows. Baselines: random draws of as many rows, of as many response tokens, balanced
by source, of the pool without near-duplicates, of the shortest answers, the longest responses, and every published
score alone. The judge is the model itself, and the reward model is one of our own: none of its size is at hand.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from evidence_rows import PAIRS_FILE, Sizes, prepare_rows

AS_MIXED = "as mixed"
"""A quota: of each source at least as large a share as it has of the pool, in whole percent."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "d3": {"strategy": "d3"},
    "miwv": {"strategy": "miwv"},
    "mads": {"strategy": "mads"},
    "facility-location": {"strategy": "facility-location"},
    "kcenter": {"strategy": "kcenter"},
    "deita": {"strategy": "deita"},
    "targeted": {"strategy": "targeted"},
    "ifd": {"strategy": "ifd"},
    "upd": {"strategy": "topk:upd"},
    "loss": {"strategy": "topk:loss"},
    "grade": {"strategy": "topk:grade"},
    "longest": {"strategy": "topk:response_tokens"},
    "d3-balanced": {"strategy": "d3", "balance": "source"},
    "d3-length-corrected": {"strategy": "d3", "length_corrected": True},
    "upd-length-corrected": {"strategy": "topk:upd", "length_corrected": True},
    "d3-whitened": {"strategy": "d3", "whiten": True},
    "kcenter-whitened": {"strategy": "kcenter", "whiten": True},
    "facility-location-whitened": {"strategy": "facility-location", "whiten": True},
    "d3-per-token": {"strategy": "d3", "per": "token"},
    "facility-location-per-token": {"strategy": "facility-location", "per": "token"},
    "d3-rounds": {"strategy": "d3", "rounds": 3},
    "d3-as-mixed": {"strategy": "d3", "quota": AS_MIXED},
    "grade-judge": {"strategy": "topk:grade", "grade": "judge"},
    "grade-reward": {"strategy": "topk:grade", "grade": "reward"},
    "upd-from-8-tokens": {"strategy": "topk:upd", "min_response_tokens": 8},
    "targeted-half": {"strategy": "targeted", "targeted": "50%", "general": "facility-location"},
}
"""Names in the tables, and recipes. `upd`, `loss`, `grade`, `ifd` and `miwv` are the published scores alone."""

ROWS_ALONE = {
    "d3-balanced",
    "d3-as-mixed",
    "d3-rounds",
    "grade-judge",
    "grade-reward",
    "upd-from-8-tokens",
    "targeted-half",
}
"""Balances and quotas are of rows; the others are not tried by tokens, for their cost."""

FIRST_SHARE_ALONE = {"d3-rounds"}
"""Its rounds score the pool anew for each budget."""

TOKENS_ALONE = {"d3-per-token", "facility-location-per-token"}
"""A gain for a token is meant for budgets in tokens."""

SHARES = (5, 1, 10)
"""Budgets in percent of the pool, in the order in which they are tried."""

TOO_MANY_ROWS = {"miwv", "upd", "loss"}
"""Not tried at equal response tokens: they take answers of one or two tokens, and so a quarter of the pool or more."""

TUNING = {"method": "lora", "epochs": 1, "learning_rate": 1e-3, "batch_tokens": 512, "max_length": 512}
"""Of a trial's runs, and of the models of d3's rounds."""

TRIALS = {
    "seeds": 3,
    "draws": 5,
    "multiples": [],
    "baselines": ["balanced"],
    "keep_models": True,
}
NEAR_DUPLICATES = {"threshold": 0.99, "text": 0.8, "keep": "first"}
"""What is alike, for the draws of a pool without near-duplicates."""

PRECISION = {"bfloat16": "bf16", "float32": "float32"}
"""What the runs compute in, by the type in which the model scores and measures."""

REWARD_MODEL = "reward"
"""Its folder in the project."""

ROLES = {"pool": "train", "held": "eval", "target": "target"}
STEPS = ("rows", "score", "try", "tables")


def names_of(by_tokens: bool, share: int, leave_out: Collection[str] = ()) -> list[str]:
    """The strategies that are tried with a budget of that share of the pool's rows, or of its response tokens."""
    left_out = ROWS_ALONE | TOO_MANY_ROWS if by_tokens else TOKENS_ALONE
    if share != SHARES[0]:
        left_out = left_out | FIRST_SHARE_ALONE
    return [name for name in STRATEGIES if name not in left_out and name not in leave_out]


def settings_of(facts: dict[str, dict[str, int]], model: str, given: argparse.Namespace) -> dict[str, Any]:
    """dselect.yaml of the study. facts: rows and response tokens by source."""
    pool = {name: each for name, each in facts.items() if name.startswith("pool-")}
    response_tokens, rows = (sum(each[of] for each in pool.values()) for of in ("response_tokens", "rows"))
    as_mixed = {name: {"min": f"{100 * each['rows'] // rows}%"} for name, each in pool.items()}
    coresets = {}
    for share in given.shares:
        tokens = round(response_tokens * share / 100)
        for name in names_of(False, share, given.leave_out):
            coresets[f"{name}-{share}pct"] = {**recipe_of(name, as_mixed), "budget": f"{share}%"}
        for name in names_of(True, share, given.leave_out):
            coresets[f"{name}-{share}pct-tokens"] = {**recipe_of(name, as_mixed), "budget": f"{tokens} tokens"}
    reward_model = str(given.work.resolve() / REWARD_MODEL)
    precision = {"precision": PRECISION[given.dtype]}
    return {
        "storage": "store",
        "sources": {name: {"path": f"rows/{name}.jsonl", "role": ROLES[name.split("-")[0]]} for name in facts},
        "model": {"path": model, "dtype": given.dtype, "device": "cpu"},
        "graders": {
            "heuristic": {},
            "judge": {"judge": model, "dtype": given.dtype, "device": "cpu"},
            "reward": {"reward_model": reward_model, "dtype": given.dtype, "device": "cpu"},
        },
        "coresets": coresets,
        "feedback": TUNING | precision,
        "trials": TUNING | TRIALS | precision,
    }


def recipe_of(name: str, as_mixed: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A strategy's recipe, without its budget. as_mixed: the quota that AS_MIXED stands for."""
    recipe = dict(STRATEGIES[name])
    if recipe.get("quota") == AS_MIXED:
        recipe["quota"] = {source: dict(bounds) for source, bounds in as_mixed.items()}
    reads_grades = recipe["strategy"] in ("d3", "deita", "topk:grade")
    return {"grade": "heuristic", **recipe} if reads_grades else recipe


def make_rows(given: argparse.Namespace, work: Path) -> None:
    """Write the sources, dselect.yaml, and that of the same pool without near-duplicates."""
    from evidence_grid import DIFFERENT_PROJECT
    from transformers import AutoTokenizer

    model = Path(given.model)
    facts = prepare_rows(Path(given.corpora), AutoTokenizer.from_pretrained(str(model)), Sizes(), work / "rows")
    print(json.dumps(facts, indent=1))
    settings = settings_of(facts, str(model.resolve()), given)
    different = {
        **{key: settings[key] for key in ("storage", "model")},
        "sources": {name: {**spec, "path": f"../{spec['path']}"} for name, spec in settings["sources"].items()},
        "near_duplicates": NEAR_DUPLICATES,
        "coresets": {"random": {"strategy": "random", "budget": "5%"}},
    }
    for path, each in ((Path("dselect.yaml"), settings), (DIFFERENT_PROJECT, different)):
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(yaml.safe_dump(each, sort_keys=False))


def try_all(config: Path, given: argparse.Namespace) -> None:
    """Run what no other process has, stage by stage, until everything is tried or the time is over."""
    from evidence_grid import open_workspace, run_stage, stages

    workspace = open_workspace(config)
    for stage in stages(given.shares):
        names = names_of(stage.cell.by_tokens, stage.cell.share, given.leave_out)
        done = run_stage(workspace, stage, names, given.until, config.parent / "runs.log")
        print(f"{time.strftime('%H:%M:%S')} {stage.cell.name} seeds {stage.seeds}: {done} runs", flush=True)


def try_in_processes(given: argparse.Namespace) -> None:
    """`try_all` in as many processes, one thread each: this command with another step."""
    command = [sys.executable, __file__, "worker", *(word for word in sys.argv[1:] if word not in STEPS)]
    workers = [subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(given.processes)]
    exits = [worker.wait() for worker in workers]
    if any(exits):
        raise SystemExit("a process failed; what was tuned is kept: run the step again")


def restore_known(config: Path, given: argparse.Namespace) -> None:
    """Take from the tables what an earlier run of the study left there."""
    import evidence_report
    from evidence_grid import cells, open_workspace

    count = evidence_report.restore(open_workspace(config), cells(given.shares), list(STRATEGIES), given.tables)
    print(f"{count} runs are known from {given.tables}", flush=True)


def write_tables(config: Path, given: argparse.Namespace) -> None:
    """CSV files into --tables, Markdown on the screen."""
    import evidence_report
    from evidence_grid import cells, open_workspace

    print(evidence_report.write_tables(open_workspace(config), cells(given.shares), list(STRATEGIES), given.tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", choices=[*STEPS, "worker", []], help="by default all, in this order")
    parser.add_argument("--corpora", type=Path, default=os.environ.get("EVIDENCE_CORPORA"))
    parser.add_argument("--model", type=Path, default=os.environ.get("EVIDENCE_MODEL"))
    parser.add_argument("--work", type=Path, default=Path("evidence"), help="folder of the project")
    parser.add_argument("--dtype", default="bfloat16", choices=PRECISION, help="of scoring, tuning, measuring")
    parser.add_argument("--shares", type=int, nargs="+", choices=SHARES, default=SHARES, help="budgets, in percent")
    parser.add_argument("--leave-out", nargs="+", choices=STRATEGIES, default=[], help="strategies that are not tried")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--until", type=float, default=float("inf"), help="start no run after this, as time.time()")
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent.parent / "docs" / "evidence")
    given = parser.parse_args()
    steps = given.steps or STEPS
    config = given.work.resolve() / "dselect.yaml"
    if "rows" in steps:
        if given.corpora is None or given.model is None:
            parser.error(
                "name the corpora and the model: EVIDENCE_CORPORA and EVIDENCE_MODEL, or --corpora and --model"
            )
        make_rows(given, config.parent)
    if "score" in steps:
        from evidence_grid import DIFFERENT_PROJECT
        from evidence_reward import tune_reward_model

        tune_reward_model(Path(given.model), config.parent / "rows" / PAIRS_FILE, config.parent / REWARD_MODEL)
        for project in (config.parent / DIFFERENT_PROJECT, config):
            subprocess.run([sys.executable, "-m", "dselect_dagster.cli", "refresh", "-c", str(project)], check=True)
    if "try" in steps:
        restore_known(config, given)
        try_in_processes(given)
    if "worker" in steps:
        try_all(config, given)
    if "tables" in steps:
        write_tables(config, given)


if __name__ == "__main__":
    main()
