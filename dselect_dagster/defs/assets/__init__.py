"""The assets: thin functions over those of dselect_core."""
