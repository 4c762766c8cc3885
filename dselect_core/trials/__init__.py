"""Trials: models tuned on a coreset and on random draws, measured on held-out sources, and compared."""
