"""The one error class a user is meant to read: it names what is wrong, where, and the remedy."""


class DselectError(Exception):
    """Bad input or bad settings. The message says file, row or key, and what to do about it."""
