"""The one model that this process holds open: the target model, a judge or a reward model. Another takes its place.

Trade-off: who alternates between two opens each anew; two at a time would need the memory of both.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from dselect_core.lm import load

Model = TypeVar("Model")

_held: list[tuple[Hashable, Any]] = []


def hold(key: Hashable, open_model: Callable[[], Model]) -> Model:
    """The model of that key: the one that is held, or opened after that one has left. key: all that it is opened by."""
    if not (_held and _held[0][0] == key):
        release()
        _held.append((key, open_model()))
    model: Model = _held[0][1]
    return model


def release() -> None:
    """Take the model out of memory. Whoever needs it opens it again."""
    if _held:
        _held.clear()
        load.free_memory()
