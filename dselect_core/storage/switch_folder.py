"""Put a new folder in the place of an old one on a local disk, in one step where the system has one.

Linux (renameat2) and macOS (renamex_np) exchange two folders atomically: under the folder's name lies the old content
or the new, whole. File systems that cannot (some network shares) get two renames. Between them, for microseconds, there
is no folder of that name; a process that is killed just there leaves the old one beside it, and `restore_folder` puts
it back. So no mixture of the two is ever visible.

Trade-off: a symbolic link could be switched in one step everywhere, but a link in the place of a folder is lost or
followed by tools that copy, archive or synchronise.
"""

import ctypes
import errno
import os
import sys
import uuid
from pathlib import Path

from dselect_core.storage.files import flush_folder

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV)


def switch_folder(new: Path, folder: Path) -> None:
    """Put the folder `new`, which lies beside `folder`, in its place. What was there lies at `new` afterwards, if any.

    Raises OSError where the disk refuses; then `folder` is what it was.
    """
    while True:
        try:
            if not folder.exists():
                new.rename(folder)
            elif not _exchange(new, folder):
                _rename_twice(new, folder)
            break
        except FileNotFoundError:
            if not new.exists():
                raise
        except OSError as error:  # another process has put its folder there
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    flush_folder(folder.parent)


def restore_folder(folder: Path) -> None:
    """Put back what a process that was killed between two renames left beside. A folder that is there stays."""
    if folder.exists():
        return
    left = sorted(folder.parent.glob(f".{folder.name}.*.old"), key=lambda path: path.stat().st_mtime)
    if left:
        left[-1].rename(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        code = libc.renamex_np(os.fsencode(one), os.fsencode(other), _EXCHANGE)
    elif sys.platform == "linux" and hasattr(libc, "renameat2"):
        code = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)
    else:
        return False
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _rename_twice(new: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():
            old.rename(folder)
        raise
    old.rename(new)
