"""Every selection benchmark, one table each: farthest-first, neuron coverage, facility location, DEITA's filter.

    [DEITA=<checkout>] python benchmarks/selection.py [--large]

What each compares and how is in select_*.py, which also run alone and with other sizes. Peers that are not present
(submodlib-py and apricot-select by import, DEITA by its environment variable) are left out, with a line that says so.
--large adds a million rows to farthest-first and 200,000 to facility location: some ten minutes and 10 GB more.
"""

import argparse
import sys

import select_coverage
import select_deita
import select_facility
import select_farthest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--large", action="store_true")
    large = ["--large"] if parser.parse_args().large else []
    for title, benchmark, options in (
        ("D3's weighted farthest-first", select_farthest.main, large),
        ("MADS' neuron coverage", select_coverage.main, []),
        ("facility location", select_facility.main, []),
        *([("facility location, 200,000 rows", select_facility.main, large)] if large else []),
        ("DEITA's filter", select_deita.main, []),
    ):
        print(f"\n**{title}**\n", flush=True)
        sys.argv[1:] = options
        benchmark()


if __name__ == "__main__":
    main()
