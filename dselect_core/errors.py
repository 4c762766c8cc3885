"""The errors that users read. They say what is wrong, where, and what to do about it."""

from upath import UPath


class DselectError(Exception):
    """Bad input or bad settings. The message names the file, row or key, and the remedy."""


class DamagedFileError(DselectError):
    """A file in the storage is not what was written: empty, cut off or altered. A missing one is a FileNotFoundError.

    path: the file. why: what is wrong with it. remedy: what the user does about it.
    """

    def __init__(
        self, path: UPath, why: str, remedy: str = "Delete it and run `dselect refresh`, which makes it again."
    ):
        super().__init__(f"{path}: damaged, {why}. {remedy}")
        self.path = path
