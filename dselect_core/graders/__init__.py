"""Who grades dependability: an OpenAI-compatible endpoint, or checks of the text."""
