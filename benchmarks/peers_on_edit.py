"""What two peers do when a dataset that they scored before is run again: as it was, with a row inserted at the very
top, and with one answer edited.

    ODA_DATASCORER=<checkout> ODA_PYTHON=<python> DISTILABEL_PYTHON=<python> python benchmarks/peers_on_edit.py

- **ODA-DataScorer** (OpenDataArena/ODA-DataScorer), its UPD scorer, by its own `main.py`, with `resume` off (its
  default), on, and on with an `id` in every row. Its README asks for an id in every row wherever `resume` is on;
  without them the code numbers the rows and says nothing, so that case is shown too, and named.
- **distilabel**, a pipeline of its own loader and one step that scores, with its cache on (its default; rows loaded
  from dicts, and from a file) and off. Loaded from a file that got longer, it ends well, hands back no row, and warns.

A peer that is not there is left out: `oda()` and `distilabel()` return None. Every run is a process of its own, as when
a user calls a script again. Each dataset is also scored from scratch, in an empty folder; a score is wrong if it is not
the one that its row gets there.

What this trades off: 24 short rows and a random Llama of three layers are enough to count rows, and say nothing of
speed or of what the scores are worth. ODA's list of scorers is cut to UPD by a file of ours (a missing dependency of
any other would stop it), and it scores one row at a time, so that no padding is in play; the rows it computed are the
lines that it wrote. distilabel's own local scorer (`RewardModelScore`) fails under transformers 5, so the step is
written here: the mean loss of the response; it counts the rows that it is given. Both run on the CPU, offline. A peer's
interpreter needs torch and transformers. With both peers this is some 30 short processes, two to three minutes.
"""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, str]
Scores = list[float | None]

N_ROWS = 24
TOLERANCE = 1e-6
TIMEOUT = 300.0
WORKER = "--distilabel-run"


@dataclass(frozen=True)
class Outcome:
    """A peer's second run on a dataset; all counts are rows of the dataset as edited."""

    peer: str
    version: str
    edit: str
    rows: int
    computed_again: int
    missing: int  # without a score
    wrong: int  # with a score that is not theirs
    of_another_row: int  # of the wrong ones: with exactly the score of another row


def dataset() -> list[Row]:
    """Distinct short rows in ODA's layout."""
    things = ("a river", "a mountain", "a composer", "a metal")
    return [
        {"instruction": f"What is {i} times {i + 7}?", "input": "", "output": f"It is {i * (i + 7)}."}
        if i % 2
        else {
            "instruction": f"Name {things[i // 2 % 4]}.",
            "input": f"Letter {i}",
            "output": "No. " * (i // 6) + f"#{i}",
        }
        for i in range(N_ROWS)
    ]


def _insert(rows: list[Row]) -> list[Row]:
    new = {"instruction": "Which sea lies north of Poland?", "input": "", "output": "The Baltic Sea."}
    return [new, *rows]


def _edit(rows: list[Row]) -> list[Row]:
    middle = len(rows) // 2
    return [{**row, "output": "I would rather not say."} if i == middle else row for i, row in enumerate(rows)]


EDITS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "nothing changed": list,
    "one row inserted at the top": _insert,
    "one answer edited": _edit,
}


def save_model(folder: Path) -> Path:
    """A random Llama with peaked outputs (so that scores spread) and a byte-level BPE trained on the dataset."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((text for row in dataset() for text in row.values()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", padding_side="right"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _interpreter(variable: str) -> str:
    return str(Path(shutil.which(name := os.environ.get(variable, sys.executable)) or name).absolute())


def _run(command: list[str], home: Path) -> str:
    """Its output; a RuntimeError with the end of it if it fails. The hub's and the data sets' caches lie in `home`."""
    settings = {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        command,
        cwd=home,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def _write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _outcome(peer: str, version: str, edit: str, computed: int, second: Scores, scratch: Scores) -> Outcome:
    """The second run against the run from scratch."""
    truth = [score for score in scratch if score is not None]
    ordered = sorted(truth)
    if len(truth) < len(scratch) or any(b - a < 10 * TOLERANCE for a, b in itertools.pairwise(ordered)):
        raise RuntimeError(f"{peer}: the run from scratch does not tell every row from every other: {scratch}")

    def same(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE)

    wrong = [score for score, own in zip(second, truth, strict=True) if score is not None and not same(score, own)]
    return Outcome(
        peer,
        version,
        edit,
        rows=len(second),
        computed_again=computed,
        missing=second.count(None),
        wrong=len(wrong),
        of_another_row=sum(any(same(score, other) for other in truth) for score in wrong),
    )


# -- ODA-DataScorer ---------------------------------------------------------------------------------------------------


def _run_oda(
    checkout: Path, python: str, home: Path, folder: Path, rows: list[Row], *, resume: bool
) -> tuple[int, Scores]:
    """Rows that one run computed, and the score of each row. `folder` keeps the input and ODA's output between runs."""
    (home / "scorers").mkdir(exist_ok=True)
    listed = {"scorers": [{"name": "UPDScorer", "module": "scorers.UPDScorer"}]}
    (home / "scorers" / "scores_info.json").write_text(json.dumps(listed))
    folder.mkdir(exist_ok=True)
    _write_rows(folder / "data.jsonl", rows)
    output = folder / "out"
    written = output / "master_temp" / "scorer_UPDScorer" / "UPDScorer.jsonl"
    before = len(_read_lines(written)) if resume else 0
    settings = {
        "input_path": str(folder / "data.jsonl"),
        "output_path": str(output),
        "num_gpu": 1,
        "num_gpu_per_job": 0,
        "resume": resume,
        "scorers": [{"name": "UPDScorer", "model": str(home / "model"), "max_length": 256, "batch_size": 1}],
    }
    (folder / "config.yaml").write_text(json.dumps(settings))
    said = _run([python, str(checkout / "model_based" / "main.py"), "--config", str(folder / "config.yaml")], home)
    if "Successful Scorers: 1/1" not in said:  # It exits with 0 all the same.
        raise RuntimeError(f"ODA-DataScorer scored nothing:\n{said[-2000:]}")
    scores = {
        line["id"]: line["scores"]["UPDScorer"]["score"] for line in _read_lines(output / "pointwise_scores.jsonl")
    }
    ids = [row.get("id", i) for i, row in enumerate(rows)]
    return len(_read_lines(written)) - before, [scores.get(key) for key in ids]


def oda() -> list[Outcome] | None:
    """ODA-DataScorer at `ODA_DATASCORER`, run by `ODA_PYTHON`; None if the variable is not set."""
    if not (place := os.environ.get("ODA_DATASCORER")):
        return None
    checkout, python = Path(place).absolute(), _interpreter("ODA_PYTHON")
    version = "unknown"
    if (checkout / ".git").exists():
        command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def with_ids(rows: list[Row]) -> list[Row]:
        known = {row["instruction"] + row["input"]: f"row-{i:02d}" for i, row in enumerate(dataset())}
        return [{"id": known.get(row["instruction"] + row["input"], "row-new"), **row} for row in rows]

    modes: dict[str, tuple[bool, Callable[[list[Row]], list[Row]]]] = {
        "ODA-DataScorer, resume off (default)": (False, list),
        "ODA-DataScorer, resume, rows without id": (True, list),
        "ODA-DataScorer, resume, rows with id": (True, with_ids),
    }
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        save_model(home / "model")
        scratch = {
            edit: _run_oda(checkout, python, home, home / f"scratch{i}", apply(dataset()), resume=False)[1]
            for i, (edit, apply) in enumerate(EDITS.items())
        }
        for peer, (resume, shape) in modes.items():
            first = home / "first"
            _run_oda(checkout, python, home, first, shape(dataset()), resume=resume)
            for edit, apply in EDITS.items():
                # A copy at one and the same place, so that nothing but the rows differs.
                shutil.copytree(first, home / "second")
                rows = shape(apply(dataset()))
                computed, second = _run_oda(checkout, python, home, home / "second", rows, resume=resume)
                outcomes.append(_outcome(peer, version, edit, computed, second, scratch[edit]))
                shutil.rmtree(home / "second")
            shutil.rmtree(first)
    return outcomes


# -- distilabel -------------------------------------------------------------------------------------------------------


def _distilabel_worker(folder: Path, loader: str, cache: bool) -> None:
    """Inside the peer's interpreter: one run of the pipeline over data.jsonl, its rows to scored.jsonl."""
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts, LoadDataFromFileSystem, Step, StepInput

    class ResponseLoss(Step):
        model: str

        def load(self) -> None:
            super().load()
            from transformers import AutoModelForCausalLM, AutoTokenizer

            self._lm = AutoModelForCausalLM.from_pretrained(self.model).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(self.model)

        @property
        def inputs(self) -> list[str]:
            return ["instruction", "input", "output"]

        @property
        def outputs(self) -> list[str]:
            return ["score"]

        def process(self, inputs: StepInput) -> Any:
            import torch

            with (folder / "computed").open("a") as computed:
                computed.write("." * len(inputs))
            for row in inputs:
                prompt = self._tokenizer(f"{row['instruction']}\n{row['input']}\n", return_tensors="pt").input_ids
                response = self._tokenizer(row["output"], return_tensors="pt").input_ids
                labels = torch.cat([torch.full_like(prompt, -100), response], dim=1)
                with torch.no_grad():
                    row["score"] = self._lm(torch.cat([prompt, response], dim=1), labels=labels).loss.item()
            yield inputs

    # distilabel reads a cached pipeline's steps back by module and name, so the step must be found in the module.
    ResponseLoss.__qualname__ = "ResponseLoss"
    globals()["ResponseLoss"] = ResponseLoss
    data = folder / "data.jsonl"
    with Pipeline(name="peers_on_edit", cache_dir=folder / "cache") as pipeline:
        if loader == "dicts":
            source = LoadDataFromDicts(name="rows", data=_read_lines(data))
        else:
            source = LoadDataFromFileSystem(name="rows", data_files=str(data))
        _ = source >> ResponseLoss(name="loss", model=str(folder.parent / "model"))
    scored = pipeline.run(use_cache=cache)
    # A run that ends well may still hand back nothing at all.
    _write_rows(folder / "scored.jsonl", scored["default"]["train"].to_list() if "default" in scored else [])


def _run_distilabel(
    python: str, home: Path, folder: Path, rows: list[Row], *, loader: str, cache: bool
) -> tuple[int, Scores]:
    """Rows that the step was given in one run, and the score of each row, found by its text.

    So a row that comes back as it was before its edit is one that is missing, not one with a wrong score.
    """
    folder.mkdir(exist_ok=True)
    for left in ("computed", "scored.jsonl"):
        (folder / left).unlink(missing_ok=True)
    _write_rows(folder / "data.jsonl", rows)
    _run([python, str(Path(__file__).resolve()), WORKER, str(folder), loader, str(int(cache))], home)
    scores = {
        (line["instruction"], line["input"], line["output"]): line["score"]
        for line in _read_lines(folder / "scored.jsonl")
    }
    computed = len((folder / "computed").read_text()) if (folder / "computed").exists() else 0
    return computed, [scores.get((row["instruction"], row["input"], row["output"])) for row in rows]


def distilabel() -> list[Outcome] | None:
    """distilabel as `DISTILABEL_PYTHON` imports it; None if that is not set and this interpreter has none."""
    python = _interpreter("DISTILABEL_PYTHON")
    modes = {
        "distilabel, cache off": ("dicts", False),
        "distilabel, cache (default), from dicts": ("dicts", True),
        "distilabel, cache (default), from a file": ("file", True),
    }
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        code = "import distilabel.pipeline, torch, transformers; print('version', distilabel.__version__)"
        try:
            version = _run([python, "-c", code], home).split()[-1]
        except RuntimeError:
            if "DISTILABEL_PYTHON" in os.environ:
                raise
            return None
        save_model(home / "model")
        scratch = {
            edit: _run_distilabel(python, home, home / f"scratch{i}", apply(dataset()), loader="dicts", cache=False)[1]
            for i, (edit, apply) in enumerate(EDITS.items())
        }
        for peer, (loader, cache) in modes.items():
            # Paths are part of its cache, so the first run is set aside and put back, at one and the same place.
            place, first = home / "place", home / "first"
            _run_distilabel(python, home, place, dataset(), loader=loader, cache=cache)
            place.rename(first)
            for edit, apply in EDITS.items():
                shutil.copytree(first, place)
                computed, second = _run_distilabel(python, home, place, apply(dataset()), loader=loader, cache=cache)
                outcomes.append(_outcome(peer, version, edit, computed, second, scratch[edit]))
                shutil.rmtree(place)
            shutil.rmtree(first)
    return outcomes


def main() -> int:
    peers = (
        (oda, "ODA-DataScorer", "ODA_DATASCORER to a checkout of it, and ODA_PYTHON to its interpreter"),
        (
            distilabel,
            "distilabel",
            "DISTILABEL_PYTHON to an interpreter with distilabel, requests, torch, transformers",
        ),
    )
    print(f"{N_ROWS} rows scored, then edited and run again; to compute: 0, 1 and 1 rows")
    columns = ("rows", "computed again", "missing", "wrong score", "of another row")
    print(f"\n{'peer':41}  {'version':7}  {'edit':27}  " + "  ".join(columns))
    failed = False
    for measure, name, how in peers:
        try:
            outcomes = measure()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed = True
            print(f"{name}  failed: {error}")
            continue
        if outcomes is None:
            print(f"{name}  not present: set {how}")
            continue
        for o in outcomes:
            counts = zip(columns, (o.rows, o.computed_again, o.missing, o.wrong, o.of_another_row), strict=True)
            line = "  ".join(f"{count:>{len(column)}}" for column, count in counts)
            print(f"{o.peer:41}  {o.version:7}  {o.edit:27}  {line}", flush=True)
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        _distilabel_worker(Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
    else:
        sys.exit(main())
