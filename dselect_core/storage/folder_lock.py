"""One process at a time in a folder, where it lies on a local disk. In an object store nobody is kept out."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from upath import UPath

from dselect_core.stop import raise_if_stopped
from dselect_core.storage.files import is_local, make_folder

_log = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(root: UPath, waiting: str) -> Iterator[None]:
    """Wait until no other process is in such a block with this folder. waiting: what is told when one is.

    Raises Stopped when somebody asks to stop meanwhile.
    """
    if not is_local(root):
        yield
        return
    folder = Path(root.path)
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    told = False
    while True:
        raise_if_stopped()
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if not told:
                _log.warning(waiting)
            told = True
    try:
        yield
    finally:
        lock.release()
