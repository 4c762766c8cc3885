"""The one error class that users read. It says what is wrong, where, and what to do about it."""


class DselectError(Exception):
    """Bad input or bad settings. The message names the file, row or key, and the remedy."""
