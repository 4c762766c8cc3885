"""IFD against Superfiltering's own scripts: the same rows, the same model folder, each side's own code.

    SUPERFILTERING=<checkout> python benchmarks/ifd_superfiltering.py --rows alpaca.json --model FOLDER [--count 50]

SUPERFILTERING names a checkout of tianyi-lab/Superfiltering; without it the benchmark says so and ends. Its
`code_ifd/data_analysis.py` and `put_analysis_to_data.py` run as they are, each a process of its own. Our side gets the
same folder with its prompt form as a chat template: instruction, input, new line, and nothing else.

Rows that both can score: none whose whole text is over the window (they cut it, here it is null), and none whose tokens
differ (they tokenise prompt and answer together, and the answer apart, and a token may lie across the border). The
others are counted. Agreement is the largest difference; the aim is 1e-4.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import polars as pl

import dselect_core as ds
from dselect_core.corpus.sample import SAMPLES, sample_id
from dselect_core.lm.load import LanguageModel

TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
AIM = 1e-4
HEADER = ["of each row", "largest difference", "mean", "within 1e-4"]


def prompt_of(row: dict[str, str]) -> str:
    """A row's prompt in their form, without the new line that ends it."""
    return f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]


def theirs(checkout: Path, rows: list[dict[str, str]], model: Path, window: int) -> list[dict[str, Any]]:
    """Their three figures of each row, in order: losses with and without the prompt, ratio of the perplexities."""
    with tempfile.TemporaryDirectory() as scratch:
        data, scores, done = (Path(scratch, name) for name in ("rows.json", "scores.jsonl", "done.json"))
        data.write_text(json.dumps(rows))
        options = {"data_path": data, "save_path": scores, "model_name_or_path": model, "max_length": window}
        _run(checkout / "code_ifd" / "data_analysis.py", options)
        _run(
            checkout / "code_ifd" / "put_analysis_to_data.py",
            {"pt_data_path": scores, "json_data_path": data, "json_save_path": done},
        )
        losses = [json.loads(line)["loss"] for line in scores.read_text().splitlines()]
        return [
            {"alone": loss[1], "conditional": loss[3], "ifd_perplexity": row["ifd_ppl"]}
            for loss, row in zip(losses, json.loads(done.read_text()), strict=True)
        ]


def _run(script: Path, options: dict[str, Any]) -> None:
    if not script.is_file():
        raise SystemExit(f"{script}: no such script; SUPERFILTERING names a checkout's top folder")
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, str(script), *given], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def ours(rows: list[dict[str, str]], folder: Path) -> tuple[LanguageModel, list[dict[str, Any]]]:
    """The model, and of each row: `loss`, `loss_without_prompt`, `ifd`, `ifd_perplexity`; null with a reason."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "model")
        copy.mkdir()
        for file in folder.iterdir():
            if file.name not in ("chat_template.jinja", "tokenizer_config.json"):
                (copy / file.name).symlink_to(file.resolve())
        shutil.copy(folder / "tokenizer_config.json", copy)
        config = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
        lm = ds.load_model(copy)
        messages = [
            [{"role": "user", "content": prompt_of(row)}, {"role": "assistant", "content": row["output"]}]
            for row in rows
        ]
        ids = [sample_id(each) for each in messages]
        samples = pl.DataFrame(
            [
                {"sample_id": key, "messages": each, "n_rows": 1, "origins": [{"source": "s", "file": "f", "row": 1}]}
                for key, each in dict(zip(ids, messages, strict=True)).items()
            ],
            schema=SAMPLES,
        ).sort("sample_id")
        scores = ds.score(samples, ["ifd"], lm)
        table = scores["difficulty"].select("sample_id", "loss", "response_tokens").join(scores["ifd"], on="sample_id")
        of = {row["sample_id"]: row for row in table.iter_rows(named=True)}
        return lm, [of[key] for key in ids]


def same_tokens(tokenizer: Any, row: dict[str, str]) -> bool:
    """Whether the answer has the same tokens behind its prompt as apart."""
    prompt = prompt_of(row) + "\n"
    whole, alone = (tokenizer.encode(text) for text in (prompt + row["output"], row["output"]))
    return bool(whole == tokenizer.encode(prompt) + alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="an Alpaca JSON file; its first rows are taken")
    parser.add_argument("--model", type=Path, required=True, help="a folder that transformers can open")
    parser.add_argument("--count", type=int, default=50)
    given = parser.parse_args()
    checkout = os.environ.get("SUPERFILTERING")
    if not checkout:
        print("skipped: SUPERFILTERING names no checkout")
        return
    rows = [row for row in json.loads(given.rows.read_text()) if row["output"].strip()][: given.count]
    lm, own = ours(rows, given.model.resolve())
    other = theirs(Path(checkout).resolve(), rows, given.model.resolve(), lm.window)
    encoded = [len(lm.renderer.tokenizer.encode(f"{prompt_of(row)}\n{row['output']}")) for row in rows]
    cut = [length > lm.window for length in encoded]
    differ = [not same_tokens(lm.renderer.tokenizer, row) for row in rows]
    pairs = [
        (mine, their)
        for mine, their, is_cut, differs in zip(own, other, cut, differ, strict=True)
        if not is_cut and not differs and mine["ifd"] is not None
    ]
    print(
        f"{len(rows)} rows, {len(pairs)} compared; over the window {sum(cut)}, other tokens across the border "
        f"{sum(differ)}, null here {sum(row['ifd'] is None for row in own)}"
    )
    sides = {
        "loss behind the prompt": [(mine["loss"], their["conditional"]) for mine, their in pairs],
        "loss without it": [(mine["loss_without_prompt"], their["alone"]) for mine, their in pairs],
        "IFD, ratio of perplexities": [(mine["ifd_perplexity"], their["ifd_perplexity"]) for mine, their in pairs],
        "IFD, ratio of losses": [(mine["ifd"], their["conditional"] / their["alone"]) for mine, their in pairs],
    }
    lines = []
    for name, values in sides.items():
        apart = [abs(a - b) for a, b in values]
        within = sum(each <= AIM for each in apart)
        lines.append([name, f"{max(apart):.1e}", f"{math.fsum(apart) / len(apart):.1e}", f"{within} of {len(apart)}"])
    print(measure.table(HEADER, lines))
    below = sum((mine["ifd"] < 1) == (their["ifd_perplexity"] < 1) for mine, their in pairs)
    print(f"the same side of 1 (kept or dropped): {below} of {len(pairs)}")


if __name__ == "__main__":
    main()
