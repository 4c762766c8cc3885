"""Neighbours: for each sample of the pool its shot, the nearest other sample by prompt."""
