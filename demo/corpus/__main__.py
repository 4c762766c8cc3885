"""`python -m demo.corpus FOLDER [--seed N]` writes the corpus and says where."""

import argparse
import sys
from pathlib import Path

from demo.corpus.write import write_corpus
from dselect_core.errors import DselectError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.corpus", description="Write the demo corpus.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        paths = write_corpus(arguments.folder, arguments.seed)
    except DselectError as error:
        print(error, file=sys.stderr)
        return 1
    for name, path in paths.items():
        print(f"{name}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
