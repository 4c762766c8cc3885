"""Sources to samples: formats, readers, quarantine; and the built-in demo corpus."""
