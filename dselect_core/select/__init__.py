"""Selection: strategies that order a pool, and budgets that cut the order."""
