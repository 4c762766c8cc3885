"""The commands of dselect, and what they print."""
