"""A refresh to be killed: `python -m tests.e2e.killed_refresh FOLDER LOG` writes each step of its progress to LOG.

What the log says was done before the kill is what the store is held to after it.
"""

import os
import sys
from pathlib import Path

from dselect_dagster.defs.progress_log import listen_to_progress
from tests.e2e.graph import Graph


def environment(**more: str) -> dict[str, str]:
    """What a process of its own is given: nothing of the settings of the one that starts it."""
    held = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "DSELECT_CONFIG")}
    # One thread each: several that share two cores would mostly wait for one another.
    return held | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


def main(folder: str, log: str) -> None:
    with (
        Path(log).open("w", buffering=1) as told,
        listen_to_progress(lambda what, done, total, reused: print(f"{what}\t{done}\t{reused}", file=told)),
    ):
        print("started", file=told)
        Graph(Path(folder)).refresh()
        print("finished", file=told)


if __name__ == "__main__":
    main(*sys.argv[1:])
