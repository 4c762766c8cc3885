"""The two sets of partitions: sources as their owners think of them, and recipes (named coresets)."""

import dagster as dg

SOURCE = dg.DynamicPartitionsDefinition(name="source")
RECIPE = dg.DynamicPartitionsDefinition(name="recipe")
