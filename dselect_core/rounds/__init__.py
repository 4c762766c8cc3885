"""D3's rounds with feedback: a model tuned on what was chosen scores the pool, and chooses the next share."""
