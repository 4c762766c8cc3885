"""Names of sources and coresets, each of which names a partition and a folder."""

from collections.abc import Iterable

LONGEST_NAME = 200
"""Bytes of a name: a file system takes 255, and endings are added."""


def check_names(kind: str, names: Iterable[str]) -> None:
    """Raises ValueError for a name that cannot name both. kind: `source` or `coreset`."""
    for name in names:
        if not name or any(c in name for c in '/\\:*?"<>|\n\t ,[]') or "..." in name or name.startswith("."):
            raise ValueError(
                f"{kind} name {name!r}: use letters, digits, - _ and . (it names a partition and a folder)"
            )
        if not name.isprintable() or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
            raise ValueError(
                f"{kind} name {name[:40]!r}…: use printable characters, {LONGEST_NAME} bytes of them at most "
                "(it names a partition and a folder)"
            )
