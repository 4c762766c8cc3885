"""The nearest other row for nearly all rows: each is compared only within the lists of its nearest centroids [ours].

This is the inverted-file index of faiss's IndexIVFFlat (Jégou et al. 2011): k-means cuts the rows into 4·√n lists, and
each row probes the `nprobe` lists whose centroids are nearest. It works list by list, not query by query: all rows that
probe a list are compared with its members in one matrix product, which updates both sides. So a pair is missed only
where neither row probes the list of the other. Centroids are on the grid too, so every comparison is exact and one set
of rows has one result on any machine. The price is about n·√n·(4 + nprobe/2) dot products.
"""

import math

from dselect_core.neighbors.exact_search import NearestRows
from dselect_core.progress import Progress
from dselect_core.select.inverted_lists import assign, k_means, positions_by_list


def list_count(rows: int) -> int:
    """How many lists `rows` rows are cut into: 4·√n."""
    return max(1, min(rows, round(4 * math.sqrt(rows))))


def comparison_count(rows: int, nprobe: int) -> int:
    """About how many dot products a search takes; lists longer than the mean are allowed for."""
    lists = list_count(rows)
    return rows * (lists + 2 * min(nprobe, lists) * rows // lists)


def search(nearest_rows: NearestRows, nprobe: int, progress: Progress | None = None) -> None:
    """Compare each row with the members of the `nprobe` lists whose centroids are nearest to it; n ≥ 1."""
    grid = nearest_rows.grid
    centroids = k_means(grid, list_count(len(grid)))
    homes, probing_rows, probed = assign(grid, centroids, min(nprobe, len(centroids)))
    members_of = positions_by_list(homes, len(centroids))
    probes_of = positions_by_list(probed, len(centroids))
    rows_done = 0
    for members, probes in zip(members_of, probes_of, strict=True):
        if len(members) and len(probes):
            nearest_rows.compare(probing_rows[probes], members, grid[members])
        rows_done += len(members)
        if progress is not None and len(members):
            progress(rows_done, len(grid))
