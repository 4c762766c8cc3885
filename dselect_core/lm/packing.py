"""Batches of token sequences: flat, without padding, a shared prefix runs once; or padded and sorted by length.

A shot's zero-shot sequence is, token for token, the prefix of every sample that is shown that shot. So a flat batch is
made of trees: a root, and continuations that see the root and themselves. This is exact, and the tokens of a root are
computed once for all its continuations. Trees fill a batch up to a token budget in the order given. A tree larger than
the budget is split, and its root repeated.

Questions that begin alike (a judge's rubric) are made a tree by `share_beginning`.

What this trades off: other sequences that share less than a whole root (a long system prompt, say) share nothing.

Padded batches are for models that cannot run flat (forward.py), for the warm-up and for encoders.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Sequence:
    """One sequence of a batch, and what is wanted of it.

    name: the caller's, returned with the results; ids: int32 [length], own tokens; scored: bool [length], the tokens
    whose loss is wanted (not a root's first token: it has no predecessor); prompt: number of own tokens in front of the
    first response, for pooled states and neurons, None where these are not wanted; root: the sequence in front, which
    has no root itself.
    """

    name: Any
    ids: np.ndarray = field(repr=False)
    scored: np.ndarray = field(repr=False)
    prompt: int | None = None
    root: "Sequence | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total_tokens(self) -> int:
        """Number of tokens that the model sees: the root's and the own ones."""
        return len(self) + (0 if self.root is None else len(self.root))

    def unscored(self) -> "Sequence":
        """The same tokens as a root for others: no result of its own is wanted."""
        return replace(self, name=None, scored=np.zeros(len(self.ids), dtype=bool), prompt=None)


@dataclass(frozen=True, eq=False)
class Tree:
    """A root and its continuations, whose own `root` need not be set."""

    root: Sequence
    children: tuple[Sequence, ...] = ()


def share_beginning(sequences: list[Sequence]) -> list[Tree]:
    """The sequences, of which nothing is scored or pooled, as continuations of the tokens that all of them begin with.

    Each keeps a token of its own. As they are where they begin with nothing in common.
    """
    longest = min(map(len, sequences)) - 1
    first = sequences[0].ids[:longest]
    alike = np.logical_and.reduce([first == each.ids[:longest] for each in sequences])
    shared = longest if alike.all() else int(alike.argmin())
    if shared < 1 or len(sequences) == 1:
        return [Tree(each) for each in sequences]
    root = Sequence(None, first[:shared], np.zeros(shared, dtype=bool))
    own = (replace(each, ids=each.ids[shared:], scored=each.scored[shared:]) for each in sequences)
    return [Tree(root, tuple(own))]


def fill(trees: Iterable[Tree], budget: int) -> Iterator[list[Sequence]]:
    """Flat batches of at most `budget` tokens, roots in front of their continuations.

    A sequence larger than the budget has a batch of its own, with its root.
    """
    batch: list[Sequence] = []
    token_count = 0
    for tree in trees:
        root_is_placed = False
        for group in _groups(tree, budget):
            group_tokens = len(tree.root) + sum(map(len, group))
            if batch and token_count + group_tokens > budget:
                yield batch
                batch, token_count = [], 0
            root = tree.root.unscored() if root_is_placed else tree.root
            batch += [root, *(replace(child, root=root) for child in group)]
            token_count += group_tokens
            root_is_placed = True
    if batch:
        yield batch


def _groups(tree: Tree, budget: int) -> Iterator[list[Sequence]]:
    """The continuations, as many at a time as fit behind the root; one empty group if there are none."""
    group: list[Sequence] = []
    token_count = len(tree.root)
    for child in tree.children:
        if group and token_count + len(child) > budget:
            yield group
            group, token_count = [], len(tree.root)
        group.append(child)
        token_count += len(child)
    yield group


def padded_batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Positions in `lengths`, batch by batch, whose padded size (rows × longest) is at most `budget` tokens.

    Sorted by length, longest first: little padding, and memory peaks at the start. Equal lengths keep their order, so
    the same lengths always make the same batches. A sequence longer than the budget has a batch of its own.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each sequence of a batch lies in the array of the batch's tokens. Offsets count tokens.

    ids: int64 [tokens]; positions: int64 [tokens], the place of each token in its sequence, counted from the root's
    start; spans: [start, end) of each sequence's own tokens; roots: the same of its root, (0, 0) without one.
    """

    sequences: list[Sequence]
    ids: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    spans: list[tuple[int, int]]
    roots: list[tuple[int, int]]

    def scored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [scored tokens] each: the offset of the token's predecessor, its id, the number of its sequence."""
        predecessor, target, owner = [], [], []
        for number, (sequence, (start, _), (_, root_end)) in enumerate(
            zip(self.sequences, self.spans, self.roots, strict=True)
        ):
            at = np.flatnonzero(sequence.scored)
            # The predecessor of a continuation's first token is its root's last.
            predecessor.append(np.where(at > 0, start + at - 1, root_end - 1))
            target.append(sequence.ids[at])
            owner.append(np.full(len(at), number))
        return tuple(np.concatenate(part).astype(np.int64) for part in (predecessor, target, owner))  # type: ignore[return-value]


def flat(sequences: list[Sequence]) -> Layout:
    """The layout of a batch from `fill`: one sequence after the other."""
    spans: list[tuple[int, int]] = []
    span_of: dict[int, tuple[int, int]] = {}
    start = 0
    for sequence in sequences:
        spans.append((start, start + len(sequence)))
        span_of[id(sequence)] = spans[-1]
        start += len(sequence)
    roots = [(0, 0) if s.root is None else span_of[id(s.root)] for s in sequences]
    positions = [np.arange(len(s)) + (0 if s.root is None else len(s.root)) for s in sequences]
    return Layout(
        sequences,
        np.concatenate([s.ids for s in sequences]).astype(np.int64),
        np.concatenate(positions).astype(np.int64),
        spans,
        roots,
    )


def padded(sequences: list[Sequence]) -> tuple[Layout, int]:
    """The layout with one row per sequence, its root in front, padded on the right; and the longest row's length.

    No mask is needed: in a causal model no token sees what comes after it.
    """
    longest = max(s.total_tokens for s in sequences)
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    spans, roots = [], []
    for row, sequence in enumerate(sequences):
        start = row * longest + (0 if sequence.root is None else len(sequence.root))
        if sequence.root is not None:
            ids[row, : len(sequence.root)] = sequence.root.ids
        ids[row, sequence.total_tokens - len(sequence) : sequence.total_tokens] = sequence.ids
        spans.append((start, start + len(sequence)))
        roots.append((row * longest, start))
    positions = np.tile(np.arange(longest), len(sequences))
    return Layout(sequences, ids.ravel(), positions, spans, roots), longest
