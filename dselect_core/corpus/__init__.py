"""From files to samples: formats, readers, quarantine, and the landing of a source."""
