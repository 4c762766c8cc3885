"""The scores: one file each, with its schema, its recipe and how it is computed."""
