"""How a long computation reports its progress: one signature for logs, progress bars and tests."""

from typing import Protocol


class Progress(Protocol):
    """A callback that long computations call often."""

    def __call__(self, done: int, total: int, reused: int = 0) -> None:
        """done of total: what is computed so far, and what there is to compute; reused: what was computed earlier.

        All three count rows, or response tokens where a selection has a token budget.
        """
