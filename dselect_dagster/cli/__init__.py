"""The commands of dselect, and what they print."""

import gc

# Imports and Dagster's records are many objects that stay: Python would look through them some hundred times. Here, for
# it must be said before the imports.
gc.set_threshold(400_000, 50, 100)
