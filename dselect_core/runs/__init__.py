"""Runs: a model tuned on rows of the pool, kept under a name that says what it was tuned on and how."""
