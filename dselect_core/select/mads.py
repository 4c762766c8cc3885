"""MADS: greedy maximum coverage of active neurons, in passes.

Source: MADS (arXiv 2605.30857) for the idea of coverage [paper, abstract]; the greedy form, the tie rule and the passes
are [ours]. Every row's gain is kept up to date: an index from neurons to rows says whose gain falls when a neuron is
covered. Each neuron is covered once a pass, so a pass reads the index once. Gains only fall in a pass, so the rows that
had the largest gain when all were looked through last are looked at in turn until none has it any more: all rows are
looked through m times a pass and not for each pick. What is left is O(n·m) a pass, and small sets have many passes: a
share of the pool then takes a square of its rows, with a small factor. The index takes 4 bytes per active neuron, as
much as the sets themselves, and 2 more while it is made (a counting sort, O(n·m), most of the time of a small budget).
A lazy heap needs no index, but takes many times longer over the many passes of small sets. No state is saved: the picks
of the current pass say what it covers.
"""

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order, Pick, open_rows
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy

_BLOCK = 8_192  # rows counted at a time: bounds the memory, changes no value
_LARGEST_NARROW = 2**14  # neurons a row, up to which a gain is kept in two bytes: a quarter of the memory that is read
_LOOK = 256  # rows looked at first, four times as many each time after; changes no value


def mads_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """`max_coverage` of the pool's active neurons; `seed` is not used."""
    assert pool.neurons is not None
    return max_coverage(pool.neurons, saved, pool.groups)


def max_coverage(neurons: np.ndarray, saved: SavedOrder | None = None, groups: np.ndarray | None = None) -> Order:
    """Each pick is `argmax_i |N_i \\ C|`, C the neurons covered in this pass; ties go to the lowest row.

    neurons: uint32 [n, m ≥ 1], ids distinct inside a row. Gives every row once, with its newly covered neurons as gain
    and its pass (from 1). When no row has anything to gain, the covered set is cleared, the picks stay picked, and the
    next pass begins. With groups of which some are closed, it begins when no row of an open one has anything to gain.
    Standing is counted in the pass of the last pick: where it is 0 for all, the next pick opens a
    pass and gains m.
    """
    return _MaxCoverage(neurons, saved, groups)


class _MaxCoverage(Order):
    def __init__(self, neurons: np.ndarray, saved: SavedOrder | None, groups: np.ndarray | None) -> None:
        self._groups = groups
        n, m = neurons.shape
        self._neurons = neurons
        neuron_count = int(neurons.max(initial=0)) + 1
        self._is_covered = np.zeros(neuron_count, dtype=bool)
        self._is_picked = np.zeros(n, dtype=bool)
        self._pass = 1
        self._gains = np.full(n, m, dtype=np.int16 if m < _LARGEST_NARROW else np.int64)
        # What a gain falls by: of another type than the gains it would make subtract.at 60 times slower.
        self._one = self._gains.dtype.type(1)
        # A picked row's gain: it stays negative, and in its type, however often it is lowered.
        self._picked = -_LARGEST_NARROW if m < _LARGEST_NARROW else -(2**30)
        self._level, self._at_level, self._looked_at = 0, np.empty(0, dtype=np.int64), 0
        self._rows, self._starts = _rows_by_neuron(neurons, neuron_count)
        if saved is not None and saved.picks:
            last_pass = saved.picks[-1].cover_pass
            assert last_pass is not None
            self._pass = last_pass
            for pick in saved.picks:
                self._is_picked[pick.row] = True
                if pick.cover_pass == last_pass:
                    self._is_covered[neurons[pick.row]] = True
            self._gains[:] = self._count_uncovered()
            self._gains[self._is_picked] = self._picked

    def __next__(self) -> Pick:
        gains = self._gains
        row = self._find_best()
        if row is None:
            raise StopIteration
        if gains[row] == 0:
            self._is_covered[:] = False
            self._pass += 1
            gains[:] = np.where(self._is_picked, self._picked, self._neurons.shape[1])
            self._at_level, self._looked_at = self._at_level[:0], 0
            row = self._find_best()
            assert row is not None
        gain = int(gains[row])
        row_neurons = self._neurons[row]
        newly_covered = row_neurons[~self._is_covered[row_neurons]]
        self._is_covered[newly_covered] = True
        self._is_picked[row] = True
        gains[row] = self._picked
        starts = self._starts
        losing_rows = [self._rows[starts[c] : starts[c + 1]] for c in newly_covered.tolist()]
        np.subtract.at(gains, np.concatenate(losing_rows, dtype=np.intp), self._one)
        return Pick(row, float(gain), self._pass)

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def standing(self) -> np.ndarray:
        return np.where(self._is_picked, np.nan, self._gains.astype(np.float64))

    def _find_best(self) -> int | None:
        """The row of largest gain that may be picked now."""
        if not len(self._gains):
            return None
        is_open = open_rows(self._groups, self.open_groups)
        if is_open is not None:
            gains = np.where(is_open, self._gains, self._picked)
            row = int(gains.argmax())
            return row if gains[row] >= 0 else None
        while (found := self._find_at_level()) is None:
            level = self._gains.max()
            if level < 0:
                return None
            self._level, self._at_level, self._looked_at = int(level), np.flatnonzero(self._gains == level), 0
        return found

    def _find_at_level(self) -> int | None:
        """The first row whose gain is still what was the largest when all rows were looked through last.

        A row that was passed over does not come back, for gains only fall; a new pass begins with no row at a level.
        """
        count = _LOOK
        while len(rows := self._at_level[self._looked_at : self._looked_at + count]):
            has_it = self._gains[rows] == self._level
            at = int(has_it.argmax())
            if has_it[at]:
                self._looked_at += at
                return int(rows[at])
            self._looked_at += len(rows)
            count *= 4
        return None

    def _count_uncovered(self) -> np.ndarray:
        """int64 [n]: how many neurons of each row the current pass has not covered."""
        counts = np.empty(len(self._neurons), dtype=np.int64)
        for start in range(0, len(counts), _BLOCK):
            block = self._neurons[start : start + _BLOCK]
            counts[start : start + _BLOCK] = block.shape[1] - np.count_nonzero(self._is_covered[block], axis=1)
        return counts


def _rows_by_neuron(neurons: np.ndarray, neuron_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, starts): the rows of neuron c, ascending, are rows[starts[c] : starts[c + 1]]."""
    from scipy.sparse import csr_array  # here, because the settings import this file to check a strategy's name

    n, m = neurons.shape
    flat = np.ascontiguousarray(neurons).view(np.int32).ravel()  # no copy: an id is far below 2^31
    # The type of starts is as narrow as it may be: scipy converts the ids, four bytes each, to the same type.
    starts = np.arange(0, n * m + 1, m, dtype=np.int32 if n * m < 2**31 else np.int64)
    sets = csr_array((np.ones(n * m, dtype=np.int8), flat, starts), shape=(n, neuron_count))
    by_neuron = sets.tocsc()
    return by_neuron.indices, by_neuron.indptr


MADS = Strategy(
    name="mads",
    description="coverage of the model's neurons: MADS",
    needs=frozenset({"activations"}),
    columns=(),
    order=mads_order,
    counts_passes=True,
    by_group=True,
)
