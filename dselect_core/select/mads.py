"""MADS: greedy maximum coverage of active neurons, in passes.

Source: MADS (arXiv 2605.30857) for the idea of coverage; the greedy form, the tie rule and the passes are [ours].
Lazy evaluation with a heap needs no transpose of the neuron sets, hence no memory beside them; it evaluates a sample
again only while its old gain, an upper bound, is the largest.
"""

import heapq

import numpy as np

from dselect_core.select.pool import Order, Pick, Pool


def mads_order(pool: Pool, seed: int) -> Order:
    """Order by neurons newly covered; `seed` is not used."""
    assert pool.neurons is not None
    return max_coverage(pool.neurons)


def max_coverage(neurons: np.ndarray) -> Order:
    """Each pick adds the most neurons not yet covered in this pass; ties to the lowest row.

    neurons: uint32 [n, m ≥ 1], ids distinct inside a row. Yields every row once, with its marginal new neurons as gain
    and its pass (from 1). When nothing is left to gain, the covered set is cleared, the chosen stay chosen, and the
    next pass begins.
    """
    n, m = neurons.shape
    if n == 0:
        return
    covered = np.zeros(int(neurons.max()) + 1, dtype=bool)
    heap = [(-m, row) for row in range(n)]  # (minus an upper bound of the gain, row): ties come out by row
    cover_pass = 1
    while heap:
        bound, row = heap[0]
        if bound == 0:
            covered[:] = False
            cover_pass += 1
            heap = [(-m, row) for row in sorted(row for _, row in heap)]
            continue
        gain = m - int(np.count_nonzero(covered[neurons[row]]))
        if gain < -bound:
            heapq.heapreplace(heap, (-gain, row))
            continue
        # The bound still holds, so no other row gains more, and no lower row gains as much.
        heapq.heappop(heap)
        yield Pick(row, float(gain), cover_pass)
        covered[neurons[row]] = True
