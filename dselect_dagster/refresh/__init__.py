"""dselect refresh in the foreground: staleness, the plan, the runs; and what Dagster keeps private."""
