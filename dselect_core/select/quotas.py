"""`quota`: bounds of the rows of a source, met to the row or refused. [ours]

Of the first p rows of the order, for every p, at most ⌈max·p⌉ and at least ⌊min·p⌋ are of a source whose quota is a
share. So they hold at every budget, and a smaller budget is a prefix of a larger one. A max in rows holds at every p
too. A min in rows holds at the budget, so that order depends on the budget, and budgets do not nest.

At each pick, a group is open if a row of it breaks no max, and leaves room for all mins that are still to be met:
`Σ_s (min_s(t) - rows_s)⁺ ≤ t - p` for every later prefix t, as far as the pool can meet the quotas.

That this suffices: a row that has to come is a job with a time before which a max forbids it and one by which a min
asks for it. By Hall's theorem for intervals such jobs fit if no interval (t', t] of prefixes needs more rows than it
has. For intervals that begin at p this is the condition above. For later ones it holds from the start:
`Σ (⌊min·t⌋ - ⌈max·t'⌉)⁺ ≤ Σ ⌊min·(t - t')⌋ ≤ t - t'`, since min ≤ max and the shares of mins are one at most together.
Only mins in rows can break it together with maxes in shares; those are looked at once, before the first pick. And
while all maxes let in p rows at every p, some row can come at every pick.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.mixture import Mixture
from dselect_core.select.mixture_spec import Amount, Quota

_UNBOUNDED = 2**62
_BLOCK = 1024  # prefixes


class Quotas(Mixture):
    """Bounds of the rows of some groups; see the top of the file. Raises DselectError where they cannot be met."""

    def __init__(self, names: Sequence[str], groups: np.ndarray, quota: Mapping[str, Quota], budget_rows: int) -> None:
        super().__init__(names, groups)
        self._quotas = [quota.get(name, Quota.model_construct(max=None, min=None)) for name in names]
        self._budget_rows = budget_rows
        self._picks = 0
        self._require_possible()
        self._horizon = budget_rows if self.depends_on_budget else self._longest_prefix(len(groups))
        prefixes = np.arange(self._horizon + 1)
        self._room = _Room(prefixes - sum(self._least(group, prefixes) for group in range(len(names))))

    @property
    def depends_on_budget(self) -> bool:
        """Whether another budget may be another order: a min is in rows."""
        return any(each.min is not None and each.min.rows for each in self._quotas)

    @property
    def identity(self) -> str:
        """As `Mixture.identity`."""
        told = [f"{name} max {each.max} min {each.min}" for name, each in zip(self.names, self._quotas, strict=True)]
        return "; ".join(["quota", *told, *([f"of {self._budget_rows} rows"] * self.depends_on_budget)])

    def open_groups(self) -> np.ndarray:
        """A group is closed by its max, or because the room is kept for the mins of others."""
        next_prefix = self._picks + 1
        most = [self._most(group, next_prefix) for group in range(len(self.names))]
        is_open = np.asarray(~self._is_exhausted & (self.rows < np.array(most)))
        full_at = self._room.first_full(next_prefix, self._picks)
        if full_at is not None:
            is_open &= np.array([self._due(group) <= full_at for group in range(len(self.names))])
        return is_open

    def take(self, group: int) -> None:
        """As `Mixture.take`."""
        self._room.add_from(self._due(group))
        super().take(group)
        self._picks += 1

    def limits(self, rows: int) -> tuple[list[int | None], list[int | None]]:
        """As `Mixture.limits`."""
        most = [None if each.max is None else each.max.most(rows) for each in self._quotas]
        least = [None if each.min is None else each.min.least(rows) for each in self._quotas]
        return most, least

    def require_met(self) -> None:
        """Also where rows are left, and no quota lets them in."""
        _, least = self.limits(self._picks)
        told = [
            f"{name} has {rows} of its min of {low}"
            for name, rows, low in zip(self.names, self.rows.tolist(), least, strict=True)
            if low is not None and rows < low
        ]
        if told or not self._is_exhausted.all():
            used_up = [name for name, is_used in zip(self.names, self._is_exhausted, strict=True) if is_used]
            raise DselectError(
                f"quota: after {self._picks} rows no row is left that the quotas let in"
                f"{': ' if told else ''}{', '.join(told)}. Of {', '.join(used_up)} all else is too similar to what is "
                "chosen: lower the budget or a min, or raise a max"
            )

    def _due(self, group: int) -> int:
        """The prefix by which the next row of the group has to be there; one beyond the horizon where none has to."""
        least, row = self._quotas[group].min, int(self.rows[group]) + 1
        if least is None:
            return self._horizon + 1
        if least.share is None:
            return self._horizon if row <= (least.rows or 0) else self._horizon + 1
        if not least.share:
            return self._horizon + 1
        return min(-(-row * least.share.denominator // least.share.numerator), self._horizon + 1)

    def _most(self, group: int, prefix: int) -> int:
        limit = self._quotas[group].max
        return _UNBOUNDED if limit is None else limit.most(prefix)

    def _least(self, group: int, prefixes: np.ndarray) -> np.ndarray:
        """int64, by prefix up to the horizon."""
        least = self._quotas[group].min
        if least is None:
            return np.zeros(len(prefixes), dtype=np.int64)
        if least.share is None:
            return np.where(prefixes == self._budget_rows, least.rows or 0, 0)
        return prefixes * least.share.numerator // least.share.denominator

    def _limits_from_above(self, prefixes: np.ndarray) -> np.ndarray:
        """int64 [groups, prefixes]: what maxes and sizes let in."""
        let_in = np.empty((len(self.names), len(prefixes)), dtype=np.int64)
        for group, each in enumerate(self._quotas):
            if each.max is None:
                let_in[group] = self.sizes[group]
            elif each.max.share is None:
                let_in[group] = min(each.max.rows or 0, int(self.sizes[group]))
            else:
                share = each.max.share
                let_in[group] = np.minimum(-(-share.numerator * prefixes // share.denominator), self.sizes[group])
        return let_in

    def _longest_prefix(self, rows: int) -> int:
        """The longest prefix, of `rows` at most, up to which the shares can be met."""
        prefixes = np.arange(1, rows + 1)
        let_in = self._limits_from_above(prefixes)
        can_be_met = let_in.sum(axis=0) >= prefixes
        for group, each in enumerate(self._quotas):
            if each.min is not None and each.min.share is not None:
                can_be_met &= self._least(group, prefixes) <= let_in[group]
        return rows if can_be_met.all() else int(np.argmin(can_be_met))

    def _require_possible(self) -> None:
        """Raises DselectError where no order of the budget's rows meets the quotas."""
        budget = self._budget_rows
        most, _ = self.limits(budget)
        needed = {}
        for name, each, size, high in zip(self.names, self._quotas, self.sizes.tolist(), most, strict=True):
            if each.min is None:
                continue
            low = needed[name] = each.min.least(budget)
            told = _told(each.min, low, budget)
            if low > size:
                raise DselectError(
                    f"quota: source {name} has {size} rows that can be chosen, fewer than its min of {told}: lower it, "
                    "or add rows"
                )
            if high is not None and low > high:
                assert each.max is not None
                raise DselectError(
                    f"quota: of source {name} the min of {told} is more than the max of {_told(each.max, high, budget)}"
                )
        if sum(needed.values()) > budget:
            listed = ", ".join(f"{name} {rows}" for name, rows in needed.items())
            raise DselectError(
                f"quota: the mins are {sum(needed.values())} rows ({listed}), more than the budget of {budget}: lower "
                "a min, or raise the budget"
            )
        prefixes = np.arange(1, budget + 1)
        let_in = self._limits_from_above(prefixes)
        too_few = np.flatnonzero(let_in.sum(axis=0) < prefixes)
        if len(too_few):
            # Shares that round up may do at the budget, and not at an earlier prefix.
            at = budget - 1 if too_few[-1] == budget - 1 else int(too_few[0])
            listed = ", ".join(
                f"{name} {rows} ({'all it has' if rows == size else f'max {each.max}'})"
                for name, each, size, rows in zip(
                    self.names, self._quotas, self.sizes.tolist(), let_in[:, at].tolist(), strict=True
                )
                if size or each.max is not None
            )
            raise DselectError(
                f"quota: of the first {at + 1} rows only {let_in[:, at].sum()} can be filled: {listed}. Raise a max, "
                "lower the budget, or add rows"
            )
        self._require_room_at_the_end(needed, let_in)

    def _require_room_at_the_end(self, needed: Mapping[str, int], let_in: np.ndarray) -> None:
        """What the maxes push to the end must fit there; only mins in rows can fail it."""
        budget = self._budget_rows
        least = np.array([needed.get(name, 0) for name in self.names])[:, None]
        pushed = np.maximum(least - let_in, 0).sum(axis=0)
        too_many = np.flatnonzero(pushed > budget - np.arange(1, budget + 1))
        if len(too_many):
            at = int(too_many[0])
            raise DselectError(
                f"quota: the maxes leave {pushed[at]} rows of the mins to the last {budget - at - 1} of {budget}: "
                "raise a max by a row, or lower a min"
            )


def _told(amount: Amount, rows: int, budget: int) -> str:
    return str(amount) if amount.share is None else f"{amount} ({rows} of {budget} rows)"


class _Room:
    """An array over prefixes: what each has, less what its mins still need. Sums and searches by blocks: O(√n) each."""

    def __init__(self, room: np.ndarray) -> None:
        self._room = np.full(-(-len(room) // _BLOCK) * _BLOCK, _UNBOUNDED, dtype=np.int64).reshape(-1, _BLOCK)
        self._room.ravel()[: len(room)] = room
        self._added = np.zeros(len(self._room), dtype=np.int64)
        self._least = self._room.min(axis=1)

    def add_from(self, prefix: int) -> None:
        """One more for `prefix` and all after it."""
        block, at = divmod(prefix, _BLOCK)
        if block < len(self._room):
            self._room[block, at:] += 1
            self._least[block] = self._room[block].min()
            self._added[block + 1 :] += 1

    def first_full(self, prefix: int, picks: int) -> int | None:
        """The first prefix from `prefix` on that has room for `picks` rows at most; None where there is none."""
        block, at = divmod(prefix, _BLOCK)
        inside = np.flatnonzero(self._room[block : block + 1, at:] + self._added[block : block + 1] <= picks)
        if len(inside):
            return prefix + int(inside[0])
        later = np.flatnonzero(self._least[block + 1 :] + self._added[block + 1 :] <= picks)
        if not len(later):
            return None
        found = block + 1 + int(later[0])
        return found * _BLOCK + int(np.argmax(self._room[found] + self._added[found] <= picks))
