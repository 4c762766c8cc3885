"""The errors that users read, and the system's own in their words: what is wrong, where, what to do about it."""

import errno
import os
import re
import sys

from upath import UPath


class DselectError(Exception):
    """Bad input or bad settings. The message names the file, row or key, and the remedy.

    again: whether the same may go well at another time, so that a run may try it again.
    """

    again = False


class UnreachableError(DselectError):
    """An object store or endpoint that does not answer. Nothing that was finished is lost by it."""

    again = True


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


def object_store_error(error: BaseException) -> DselectError | None:
    """The error of an object store in plain words; None for any other. UnreachableError where it does not answer."""
    said = re.sub(r"\?[^\s\"']*", "", str(error)).rstrip(". ")  # without the query of an address
    is_cut_off = isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError)
    is_refused = False
    # Loaded where an s3:// path was opened, and nowhere else could such an error come from.
    if (botocore := sys.modules.get("botocore.exceptions")) is not None:
        is_cut_off |= isinstance(error, botocore.HTTPClientError | botocore.ConnectionError)
        is_refused = isinstance(error, botocore.BotoCoreError)
        if isinstance(error, OSError) and isinstance(error.__cause__, botocore.ClientError):
            reply = error.__cause__.response
            is_cut_off |= reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
            # An object that is gone is a file that is gone.
            is_refused |= not isinstance(error, FileNotFoundError) or reply["Error"].get("Code") == "NoSuchBucket"
            said = (error.strerror or str(error)).rstrip(". ")
    if is_cut_off:
        return UnreachableError(
            f"the object store does not answer: {said}. Check that it is up and can be reached from here, then run the "
            "command again: what was finished is kept."
        )
    if is_refused:
        return DselectError(
            f"the object store refuses: {said}. Check the bucket, the region and the credentials (in the environment, "
            "or in `storage_options`)."
        )
    return None


def known_error(error: BaseException) -> DselectError | None:
    """What an error of the system is in our words; None for one that was not foreseen."""
    if (of_store := object_store_error(error)) is not None:
        return of_store
    return DselectError(explain_os_error(error)) if isinstance(error, OSError) else None


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
