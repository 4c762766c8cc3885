"""Selection: strategies that order a pool, budgets that cut the order."""
