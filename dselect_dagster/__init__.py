"""dselect_dagster: orchestration. It holds no arithmetic; that is dselect_core's.

`Curation` is the component for a Dagster project. It is imported when asked for: the commands start without Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dselect_dagster.curation import Curation

__all__ = ["Curation"]


def __getattr__(name: str) -> Any:
    if name == "Curation":
        from dselect_dagster.curation import Curation

        return Curation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
