"""The code location: the graph for the dselect.yaml in force ($DSELECT_CONFIG, else the working directory's)."""

from dselect_core.settings.settings import config_path, load_settings
from dselect_dagster.defs.graph import build_definitions

defs = build_definitions(load_settings(config_path()), str(config_path()), pools=True)
