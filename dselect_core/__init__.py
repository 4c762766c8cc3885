"""dselect_core: the science of choosing a part of an instruction-tuning corpus. It never imports dagster.

The names below are its public face (api.py). They are loaded when they are first used, so importing a part of the
package loads no more than that part, and torch only where a model is opened.
"""

from typing import TYPE_CHECKING, Any

from dselect_core.version import __version__

if TYPE_CHECKING:
    from dselect_core.api import (
        Column,
        DselectError,
        Kind,
        LanguageModel,
        Pool,
        Selection,
        choose,
        export,
        hold_out,
        load_model,
        make_pool,
        read_rows,
        register,
        score,
    )

__all__ = [
    "Column",
    "DselectError",
    "Kind",
    "LanguageModel",
    "Pool",
    "Selection",
    "__version__",
    "choose",
    "export",
    "hold_out",
    "load_model",
    "make_pool",
    "read_rows",
    "register",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dselect_core import api

    return getattr(api, name)
