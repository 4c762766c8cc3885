"""dselect_core: the science. It never imports dagster, and imports torch only where torch is used."""

__version__ = "0.1.0"
