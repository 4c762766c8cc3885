"""What Dagster loads: assets, partitions, checks, sensors, schedules, resources."""
