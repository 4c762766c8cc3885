"""What the headers of a reply say about limits: `retry-after`, and `x-ratelimit-*` as OpenAI and its likes send them.

Of calls and of tokens they give a limit, what remains of it, and the time until all of it is there again. So what comes
back in a second is (limit - remaining) / time, whether it is a limit of a second, a minute or a day. Trade-off: for one
that comes back all at once this is too low at the beginning and too high at the end, so it counts only where little
remains, and a refusal corrects it.
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_SECONDS_OF = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_LONGEST = 64
"""Characters of a header that is read."""


class Allowance(NamedTuple):
    """What of a limit remains, and what of it comes back in a second."""

    remaining: float
    refill_per_second: float


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or a date); None where neither says it."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if said is None:
        return None
    if (seconds := _number(said)) is not None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(said[:_LONGEST])
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def allowance(headers: Mapping[str, str], of: str) -> Allowance | None:
    """What remains of `requests` or `tokens`; None where the headers do not say it whole."""
    limit = _number(headers.get(f"x-ratelimit-limit-{of}"))
    remaining = _number(headers.get(f"x-ratelimit-remaining-{of}"))
    seconds = _seconds(headers.get(f"x-ratelimit-reset-{of}"))
    if limit is None or remaining is None or not seconds or not remaining < limit:
        return None
    return Allowance(remaining, (limit - remaining) / seconds)


def _number(said: str | None) -> float | None:
    try:
        value = float(said[:_LONGEST]) if said else -1.0
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _seconds(said: str | None) -> float | None:
    """`6m0s`, `120ms`, `2m59.56s`, or a number of seconds."""
    if said is None:
        return None
    if (number := _number(said)) is not None:
        return number
    found = _DURATION.fullmatch(said.strip()[:_LONGEST])
    if found is None or not any(found.groups()):
        return None
    return sum(float(part) * unit for part, unit in zip(found.groups(), _SECONDS_OF, strict=True) if part)
