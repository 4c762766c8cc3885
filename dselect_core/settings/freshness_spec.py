"""The key `freshness` of dselect.yaml: from when on Dagster warns, and fails, where no coreset was made.

The units are whole minutes, hours and days, as people say them; a time of day is a matter for a freshness policy of the
team's own (docs/adopting.md).
"""

import datetime

from pydantic import Field, model_validator

from dselect_core.select.recipe import StrictModel

_FORM = r"^[1-9][0-9]{0,4}(m|h|d)$"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class FreshnessSpec(StrictModel):
    """How long ago some coreset may have been made at most."""

    fail_after: str = Field(pattern=_FORM, description="no coreset for so long is a failure, e.g. 90m, 26h or 2d")
    warn_after: str | None = Field(
        None, pattern=_FORM, description="and for so long a warning; shorter than fail_after"
    )

    @model_validator(mode="after")
    def _warns_first(self) -> "FreshnessSpec":
        if self.warn_window is not None and self.warn_window >= self.fail_window:
            raise ValueError(f"warn_after ({self.warn_after}) has to be shorter than fail_after ({self.fail_after})")
        return self

    @property
    def fail_window(self) -> datetime.timedelta:
        """`fail_after`."""
        return _duration(self.fail_after)

    @property
    def warn_window(self) -> datetime.timedelta | None:
        """`warn_after`."""
        return None if self.warn_after is None else _duration(self.warn_after)


def _duration(text: str) -> datetime.timedelta:
    return datetime.timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
