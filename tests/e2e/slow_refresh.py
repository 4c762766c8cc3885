"""`dselect refresh` in no hurry: `python -m tests.e2e.slow_refresh LOG SECONDS` writes each step of progress to LOG.

Each step takes SECONDS more, inside the code that reports it, so a test can meet it at its work. $INTERRUPT_IN names a
unit of work in which KeyboardInterrupt is raised where it stands, as by a library that takes Ctrl-C for itself.
"""

import os
import sys
import time
from pathlib import Path

from dselect_dagster.cli.app import main
from dselect_dagster.defs.progress_log import listen_to_progress

if __name__ == "__main__":
    log, seconds = Path(sys.argv[1]), float(sys.argv[2])
    sys.argv[1:] = ["refresh"]
    with log.open("w", buffering=1) as told:

        def tell(unit: str, done: int, total: int, reused: int) -> None:
            print(f"{unit}\t{done}\t{total}", file=told)
            time.sleep(seconds)
            if os.environ.get("INTERRUPT_IN", "\0") in unit:
                raise KeyboardInterrupt

        with listen_to_progress(tell):
            main()
