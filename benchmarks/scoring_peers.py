"""Peers' own code, unmodified, in this process, on the model already open: ODA-DataScorer, Superfiltering, Cherry_LLM.

Each is named by the folder of a checkout, in ODA_DATASCORER, SUPERFILTERING or CHERRY_LLM; who is not there is left
out. Each is at its best setting on a CPU: batch 1 (padding makes ODA dearer, the others know no batches).

What this trades off, in the peers' favour: opening the model, reading ODA's embeddings and its neighbour search are
not timed. Their `from_pretrained` is handed the open model instead of a path, so that all sides share one in memory.
UPD and Superfiltering get rows whose instruction is our rendered prompt, so their token ids are ours and their values
can be compared; ODA's MIWV and Cherry_LLM get the bare rows and put their own, shorter or longer, template around them.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scoring_rows import Rows


@dataclass(frozen=True)
class Peer:
    """run: scores all rows; what it returns has `upd` or `loss` (a value per row, in order) where it compares."""

    name: str
    version: str
    run: Callable[[], dict[str, list[float]]]


@dataclass(frozen=True)
class Bed:
    """What a peer is given. prompts: each row's prompt as our template renders it, ending in a line feed."""

    folder: Path
    model: Any
    rows: Rows
    prompts: list[str]


def present(bed: Bed) -> list[Peer]:
    """The peers that the environment names; says which are not."""
    makers = {"ODA_DATASCORER": oda, "SUPERFILTERING": superfiltering, "CHERRY_LLM": cherry}
    found = []
    for variable, make in makers.items():
        if place := os.environ.get(variable):
            found.append(make(Path(place), bed))
        else:
            print(f"skipped: {make.__name__} ({variable} names no checkout)")
    return found


def oda(checkout: Path, bed: Bed) -> Peer:
    """UPD, then MIWV, as its `evaluate` runs them."""
    sys.path.insert(0, str(checkout / "model_based"))
    scratch = Path(tempfile.mkdtemp(dir=bed.folder))
    rendered, bare, vectors = scratch / "rendered.jsonl", scratch / "bare.jsonl", scratch / "vectors.npy"
    rendered.write_text("".join(json.dumps(row) + "\n" for row in _rendered(bed)))
    bare.write_text("".join(json.dumps(row) + "\n" for row in _bare(bed)))
    np.save(vectors, np.nan_to_num(bed.rows.vectors))
    settings = {"model": str(bed.folder), "max_length": bed.rows.window, "batch_size": 1}
    with quiet():
        upd = _its("UPDScorer", bed)(dict(settings))
        miwv = _its("MIWVScorer", bed)(settings | {"embedding_path": str(vectors), "distance_metric": "cosine"})
    upd.tokenizer.padding_side = "right"  # it indexes as if it were, and does not set it
    row_of = {key: i for i, key in enumerate(bed.rows.samples["sample_id"])}
    ours = [row_of.get(shot) for shot in bed.rows.shots["shot_id"]]
    same = sum(theirs == own for theirs, own in zip(miwv.most_similar_indices, ours, strict=True))
    print(f"ODA-DataScorer chooses the same shot as we for {same} of {len(ours)} rows (ties go either way)")

    def run() -> dict[str, list[float]]:
        with quiet():
            scores = [row["score"] for row in upd.evaluate(str(rendered))]
            return {"upd": scores, "miwv": [row["score"] for row in miwv.evaluate(str(bare))]}

    return Peer("ODA-DataScorer, UPD + MIWV", version(checkout), run)


def oda_padded(bed: Bed, batch: int) -> list[float]:
    """ODA's UPD of all rows in padded batches, longest first: for what it gives, not for what it takes. After `oda`."""
    with quiet():
        upd = _its("UPDScorer", bed)({"model": str(bed.folder), "max_length": bed.rows.window, "batch_size": batch})
        upd.tokenizer.padding_side = "right"
        rows = _rendered(bed)
        scores = [0.0] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i]["instruction"] + rows[i]["output"]))
        for at in range(0, len(rows), batch):
            chosen = by_length[at : at + batch]
            for i, score in zip(chosen, upd.score_batch([rows[i] for i in chosen]), strict=True):
                scores[i] = score
        return scores


def superfiltering(checkout: Path, bed: Bed) -> Peer:
    """IFD: the response's loss alone and behind its prompt."""
    script = _script(checkout / "code_ifd" / "data_analysis.py", "superfiltering_script")
    data = bed.folder / "superfiltering.json"
    data.write_text(json.dumps(_rendered(bed)))

    def run() -> dict[str, list[float]]:
        with tempfile.TemporaryDirectory() as out, _opened(bed) as (model, tokenizer):
            saved = Path(out, "scores.jsonl")
            script.AutoModelForCausalLM, script.AutoTokenizer = model, tokenizer
            _main(script, data_path=data, save_path=saved, max_length=bed.rows.window)
            return {"loss": [json.loads(line)["loss"][3] for line in saved.read_text().splitlines()]}

    return Peer("Superfiltering, IFD", version(checkout), run)


def cherry(checkout: Path, bed: Bed) -> Peer:
    """IFD with a loss per token, by its shorter prompt (`wiz`, its default)."""
    script = _script(checkout / "cherry_seletion" / "data_analysis.py", "cherry_script")
    data = bed.folder / "cherry.json"
    data.write_text(json.dumps(_bare(bed)))

    def run() -> dict[str, list[float]]:
        with tempfile.TemporaryDirectory() as out, _opened(bed) as (model, tokenizer):
            named = mock.patch.multiple("transformers", LlamaForCausalLM=model, LlamaTokenizer=tokenizer)
            with named:
                _main(script, data_path=data, save_path=Path(out, "s.pt"), max_length=bed.rows.window, mod="cherry")
        return {}

    return Peer("Cherry_LLM, IFD", version(checkout), run)


def version(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "version unknown"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Peers print a line or a bar for everything."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class _Open:
    """Stands where a script calls `from_pretrained`: gives what is open already."""

    def __init__(self, thing: Any):
        self.thing = thing

    def from_pretrained(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.thing


@contextlib.contextmanager
def _opened(bed: Bed) -> Iterator[tuple[_Open, _Open]]:
    """The model as both scripts open it, with all hidden states, and its tokenizer."""
    bed.model.config.output_hidden_states = True
    try:
        yield _Open(bed.model), _Open(bed.rows.tokenizer)
    finally:
        bed.model.config.output_hidden_states = False


def _rendered(bed: Bed) -> list[dict[str, str]]:
    """Rows that a peer which puts a line feed between instruction and output renders as we do."""
    return [
        {"id": str(i), "instruction": prompt.removesuffix("\n"), "input": "", "output": answer}
        for i, (prompt, (_, answer)) in enumerate(zip(bed.prompts, bed.rows.pairs, strict=True))
    ]


def _bare(bed: Bed) -> list[dict[str, str]]:
    return [
        {"id": str(i), "instruction": prompt, "input": "", "output": answer}
        for i, (prompt, answer) in enumerate(bed.rows.pairs)
    ]


def _its(name: str, bed: Bed) -> Any:
    """ODA's scorer of that name, which will open `bed.model`."""
    module: Any = importlib.import_module(f"scorers.{name}")
    module.AutoModelForCausalLM = _Open(bed.model)
    return getattr(module, name)


def _script(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: no such script; name a checkout's top folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _main(script: Any, **options: Any) -> None:
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with mock.patch.object(sys, "argv", ["data_analysis.py", *given, "--model_name_or_path", "open"]), quiet():
        script.main()
