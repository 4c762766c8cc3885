"""How long work tells how far it is: one signature, so that logs, bars and tests can all listen."""

from typing import Protocol


class Progress(Protocol):
    def __call__(self, done: int, total: int, reused: int = 0) -> None:
        """Called often; in rows, or in response tokens where a selection has a token budget.

        total: what there is to do; reused: what need not be done, for it is held from before.
        """
