"""The project that the browser looks at: the demo corpus cut down, with bad rows, and a row that tries to act."""

import gzip
import json
from pathlib import Path
from typing import Any

import yaml

from demo.corpus import HELD_OUT, SOURCES, write_corpus
from tests.e2e.graph import TINY

ROWS = {"arithmetic_and_units": 150, "text_and_code": 150, "conversations": 120, "held_out": 30}
"""So many rows of each source are kept: the pictures show something, and all of it takes seconds."""

HOSTILE = '<script>alert("acted")</script> ![picture](http://127.0.0.1:9/p.png) <img src="http://127.0.0.1:9/i.png">'
RECIPES: dict[str, Any] = {
    "d3-10pct": {"strategy": "d3", "budget": "10%", "trial": True},
    "longest": {"strategy": "topk:response_tokens", "budget": 20},
    "mads-15pct": {"strategy": "mads", "budget": "15%"},
}


def write_project(folder: Path, reports_port: int) -> Path:
    """Write files and settings; returns those. The longest response of all is the hostile one."""
    data = folder / "data"
    write_corpus(data)
    files = SOURCES | {"held_out": HELD_OUT}
    for name, rows in ROWS.items():
        _cut(data / files[name], rows)
    hostile = {"instruction": f"Repeat this. {HOSTILE}", "input": "", "output": f"{HOSTILE} " + "and so on " * 150}
    (data / "guests.jsonl").write_text("\n".join(map(json.dumps, [hostile, {"instruction": HOSTILE, "output": 5}])))
    sources = {name: {"path": f"data/{file}"} for name, file in files.items()} | {
        "guests": {"path": "data/guests.jsonl"}
    }
    sources["held_out"]["role"] = "eval"
    config = folder / "dselect.yaml"
    settings = {
        "sources": sources,
        "coresets": RECIPES,
        "warmup": TINY,
        "trials": {"seeds": 2, "draws": 3, "multiples": [], "baselines": [], "epochs": 1, "batch_tokens": 512},
        "reports_url": f"http://127.0.0.1:{reports_port}",
    }
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


def _cut(file: Path, rows: int) -> None:
    open_file = gzip.open if file.suffix == ".gz" else open
    with open_file(file, "rt", encoding="utf-8") as read:
        text = read.read()
    kept = json.dumps(json.loads(text)[:rows]) if file.suffix == ".json" else "\n".join(text.splitlines()[:rows])
    with open_file(file, "wt", encoding="utf-8") as written:
        written.write(kept)
