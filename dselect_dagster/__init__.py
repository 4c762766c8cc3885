"""dselect_dagster: orchestration. It holds no arithmetic; that is dselect_core's."""
