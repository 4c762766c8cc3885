"""How long work tells how far it is: one signature, so that logs, bars and tests can all listen."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as (done, total), often; in rows, or in response tokens where a selection has a token budget."""
