"""The errors that users read, and the system's own in their words: what is wrong, where, what to do about it."""

import errno
import os

from upath import UPath


class DselectError(Exception):
    """Bad input or bad settings. The message names the file, row or key, and the remedy."""


_PLACE = "name another place (`storage` in dselect.yaml, $DAGSTER_HOME, or the path you gave)"
_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "Make room there and run the command again: what was finished is kept."),
    errno.EDQUOT: (
        "the disk quota is used up",
        "Make room there and run the command again: what was finished is kept.",
    ),
    errno.EACCES: ("no permission", f"Change the owner or mode, or {_PLACE}."),
    errno.EPERM: ("not permitted", f"Change the owner or mode, or {_PLACE}."),
    errno.EROFS: ("the file system is read-only", f"Mount it for writing, or {_PLACE}."),
    errno.ENOTDIR: ("a file stands where a folder is needed", f"Remove that file, or {_PLACE}."),
    errno.EEXIST: ("a file stands where a folder is needed", f"Remove that file, or {_PLACE}."),
    errno.EISDIR: ("a folder stands where a file is needed", "Remove that folder, or name a file."),
    errno.ENAMETOOLONG: ("the name is too long", "Use a shorter one: 255 bytes at most for a file, path and all 4096."),
    errno.ENOENT: ("no such file or folder", "Check the path; if dselect wrote it, run `dselect refresh`."),
    errno.ELOOP: ("links that lead in a circle", "Remove the link, or name another path."),
    errno.EFBIG: ("the file is larger than may be", f"Raise the limit (`ulimit -f unlimited`), or {_PLACE}."),
    errno.EMFILE: ("too many open files", "Raise the limit (`ulimit -n 4096`) and run the command again."),
    errno.ENFILE: ("too many open files on this machine", "Close programs, or ask for a higher limit."),
    errno.EIO: ("the disk does not answer", "Check the disk, then run the command again: what was finished is kept."),
    errno.ENOMEM: ("no memory left", "Close programs, or set a smaller `model.batch_tokens`."),
}


def explain_os_error(error: OSError) -> str:
    """One line: the file, what the system says of it, and the remedy."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    what, remedy = _REMEDIES.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, ""))
    return " ".join([f"{' → '.join(dict.fromkeys(names))}: {what}." if names else f"{what}.", remedy]).strip()


class DamagedFileError(DselectError):
    """A file in the storage is not what was written: empty, cut off or altered. A missing one is a FileNotFoundError.

    path: the file. why: what is wrong with it. remedy: what the user does about it.
    """

    def __init__(
        self, path: UPath, why: str, remedy: str = "Delete it and run `dselect refresh`, which makes it again."
    ):
        super().__init__(f"{path}: damaged, {why}. {remedy}")
        self.path = path


def first_line(error: BaseException) -> str:
    """The first line of a message that is not blank, or the error's class name."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
