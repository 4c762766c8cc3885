"""MADS: greedy maximum coverage of active neurons, in passes.

Source: MADS (arXiv 2605.30857) for the idea of coverage; the greedy form, the tie rule and the passes are [ours].
Every row's gain is saved up to date: an index from neurons to rows says whose gain falls when a neuron is covered, and
each neuron is covered once a pass, so a pass costs one walk over the index and each pick one look for the largest gain.
The index takes 4 bytes per active neuron, as much as the sets themselves, and 2 more while it is made (a counting sort,
O(n·m), most of the time of a small budget); a lazy heap needs none of it and, with the many passes of small sets, takes
many times longer. No state is saved: the picks of the current pass say what it covers.
"""

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order, Pick
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy

_BLOCK = 8_192  # rows counted at a time: bounds the memory, changes no value
_TAKEN = -(2**30)  # far below what any number of decrements leaves of a gain


def mads_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """Order by neurons newly covered; `seed` is not used."""
    assert pool.neurons is not None
    return max_coverage(pool.neurons, saved)


def max_coverage(neurons: np.ndarray, saved: SavedOrder | None = None) -> Order:
    """Each pick adds the most neurons not yet covered in this pass; ties to the lowest row.

    neurons: uint32 [n, m ≥ 1], ids distinct inside a row. Gives every row once, with its marginal new neurons as gain
    and its pass (from 1). When nothing is left to gain, the covered set is cleared, the chosen stay chosen, and the
    next pass begins. Standing is counted in the pass of the last pick: where it is 0 for all, the next pick opens a
    pass and gains m.
    """
    return _MaxCoverage(neurons, saved)


class _MaxCoverage(Order):
    def __init__(self, neurons: np.ndarray, saved: SavedOrder | None) -> None:
        n, m = neurons.shape
        self._neurons = neurons
        size = int(neurons.max(initial=0)) + 1
        self._covered = np.zeros(size, dtype=bool)
        self._taken = np.zeros(n, dtype=bool)
        self._pass = 1
        self._gains = np.full(n, m, dtype=np.int64)  # narrower ones make subtract.at 60 times slower
        self._rows, self._starts = _rows_by_neuron(neurons, size)
        if saved is not None and saved.picks:
            last = saved.picks[-1].cover_pass
            assert last is not None
            self._pass = last
            for pick in saved.picks:
                self._taken[pick.row] = True
                if pick.cover_pass == last:
                    self._covered[neurons[pick.row]] = True
            self._gains[:] = self._uncovered()
            self._gains[self._taken] = _TAKEN

    def __next__(self) -> Pick:
        gains = self._gains
        row = int(gains.argmax()) if len(gains) else 0
        if not len(gains) or gains[row] < 0:
            raise StopIteration
        if gains[row] == 0:
            self._covered[:] = False
            self._pass += 1
            gains[:] = np.where(self._taken, _TAKEN, self._neurons.shape[1])
            row = int(gains.argmax())
        gain = int(gains[row])
        own = self._neurons[row]
        fresh = own[~self._covered[own]]
        self._covered[fresh] = True
        self._taken[row] = True
        gains[row] = _TAKEN
        starts = self._starts
        lost = np.concatenate([self._rows[starts[c] : starts[c + 1]] for c in fresh.tolist()])
        np.subtract.at(gains, lost, 1)
        return Pick(row, float(gain), self._pass)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def standing(self) -> np.ndarray:
        return np.where(self._taken, np.nan, self._gains)

    def _uncovered(self) -> np.ndarray:
        """int64 [n]: how many neurons of each row the current pass has not covered."""
        gains = np.empty(len(self._neurons), dtype=np.int64)
        for start in range(0, len(gains), _BLOCK):
            block = self._neurons[start : start + _BLOCK]
            gains[start : start + _BLOCK] = block.shape[1] - np.count_nonzero(self._covered[block], axis=1)
        return gains


def _rows_by_neuron(neurons: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, starts): the rows of neuron c, ascending, are rows[starts[c] : starts[c + 1]]; size: neurons at most."""
    from scipy.sparse import csr_array  # here, for settings that only name a strategy import this file too

    n, m = neurons.shape
    flat = np.ascontiguousarray(neurons).view(np.int32).ravel()  # no copy: an id is far below 2^31
    # Starts no wider than they must be: scipy brings the ids, four bytes each, to the same type.
    starts = np.arange(0, n * m + 1, m, dtype=np.int32 if n * m < 2**31 else np.int64)
    sets = csr_array((np.ones(n * m, dtype=np.int8), flat, starts), shape=(n, size))
    by_neuron = sets.tocsc()
    return by_neuron.indices, by_neuron.indptr


MADS = Strategy("mads", frozenset({"activations"}), (), mads_order, counts_passes=True)
