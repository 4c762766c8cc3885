"""Coresets published for others: immutable versions, and a pointer that moves last."""
