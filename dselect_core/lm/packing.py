"""Sequences in flat batches without padding, each prefix that several of them share in the batch once.

A shot's zero-shot sequence is, token for token, what stands in front of every sample that is shown that shot. So a
batch is made of trees: a root, and continuations that see the root and themselves. This is exact; the tokens of a root
are computed once for all its continuations. Trees fill a batch up to a token budget in the order given; a tree that is
larger than the budget is split, its root repeated.

What this trades off: sequences that share less than a whole root (a long system prompt, say) share nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Sequence:
    """What one run of the model is asked about.

    name: the caller's, handed back; ids: int32 [length], own tokens; scored: bool [length], those whose loss is asked
    for (a root's first token has no predecessor and cannot be); prompt: own tokens in front of the first response, for
    pooled states and neurons, None where these are not asked for; root: the sequence in front, itself without one.
    """

    name: Any
    ids: np.ndarray = field(repr=False)
    scored: np.ndarray = field(repr=False)
    prompt: int | None = None
    root: "Sequence | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def whole(self) -> int:
        """Tokens from the first the model sees, the root's with them."""
        return len(self) + (0 if self.root is None else len(self.root))

    def unasked(self) -> "Sequence":
        """The same tokens, for others to continue: nothing of it is wanted."""
        return replace(self, name=None, scored=np.zeros(len(self.ids), dtype=bool), prompt=None)


@dataclass(frozen=True, eq=False)
class Tree:
    """A root and its continuations, whose own `root` need not be set."""

    root: Sequence
    children: tuple[Sequence, ...] = ()


def fill(trees: Iterable[Tree], budget: int) -> Iterator[list[Sequence]]:
    """Batches of at most `budget` tokens, roots in front of their continuations; what alone is larger stands alone."""
    batch: list[Sequence] = []
    used = 0
    for tree in trees:
        root, placed = tree.root, False
        for group in _groups(tree, budget):
            size = len(root) + sum(map(len, group))
            if batch and used + size > budget:
                yield batch
                batch, used = [], 0
            here = root.unasked() if placed else root
            batch += [here, *(replace(child, root=here) for child in group)]
            used += size
            placed = True
    if batch:
        yield batch


def _groups(tree: Tree, budget: int) -> Iterator[list[Sequence]]:
    """The continuations, so many at a time as fit behind the root; one empty group where there are none."""
    group: list[Sequence] = []
    used = len(tree.root)
    for child in tree.children:
        if group and used + len(child) > budget:
            yield group
            group, used = [], len(tree.root)
        group.append(child)
        used += len(child)
    yield group


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each sequence of a batch stands in the array of its tokens. Offsets are of tokens.

    ids, positions: int64, the tokens and the place of each in its sequence, counted from the root's start;
    spans: own tokens, [start, end); roots: those of the root, (0, 0) without one.
    """

    sequences: list[Sequence]
    ids: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    spans: list[tuple[int, int]]
    roots: list[tuple[int, int]]

    def scored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64, one each per scored token: where its predecessor stands, its id, and the number of its sequence."""
        before, target, owner = [], [], []
        for number, (sequence, (start, _), (_, root_end)) in enumerate(
            zip(self.sequences, self.spans, self.roots, strict=True)
        ):
            at = np.flatnonzero(sequence.scored)
            # The token in front of a continuation's first is its root's last.
            before.append(np.where(at > 0, start + at - 1, root_end - 1))
            target.append(sequence.ids[at])
            owner.append(np.full(len(at), number))
        return tuple(np.concatenate(part).astype(np.int64) for part in (before, target, owner))  # type: ignore[return-value]


def flat(sequences: list[Sequence]) -> Layout:
    """One after the other, as `fill` gives them."""
    spans: list[tuple[int, int]] = []
    at: dict[int, tuple[int, int]] = {}
    start = 0
    for sequence in sequences:
        spans.append((start, start + len(sequence)))
        at[id(sequence)] = spans[-1]
        start += len(sequence)
    roots = [(0, 0) if s.root is None else at[id(s.root)] for s in sequences]
    positions = [np.arange(len(s)) + (0 if s.root is None else len(s.root)) for s in sequences]
    return Layout(
        sequences,
        np.concatenate([s.ids for s in sequences]).astype(np.int64),
        np.concatenate(positions).astype(np.int64),
        spans,
        roots,
    )


def padded(sequences: list[Sequence]) -> tuple[Layout, int]:
    """Every sequence with its root as one row, filled up on the right to the longest: the layout and that length.

    Padding on the right without a mask: in a causal model a token never sees what comes after it.
    """
    longest = max(s.whole for s in sequences)
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    spans, roots = [], []
    for row, sequence in enumerate(sequences):
        start = row * longest + (0 if sequence.root is None else len(sequence.root))
        if sequence.root is not None:
            ids[row, : len(sequence.root)] = sequence.root.ids
        ids[row, sequence.whole - len(sequence) : sequence.whole] = sequence.ids
        spans.append((start, start + len(sequence)))
        roots.append((row * longest, start))
    positions = np.tile(np.arange(longest), len(sequences))
    return Layout(sequences, ids.ravel(), positions, spans, roots), longest
