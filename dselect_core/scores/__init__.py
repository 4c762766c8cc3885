"""The scores: one file each, with its columns, its provenance and how it is computed."""
