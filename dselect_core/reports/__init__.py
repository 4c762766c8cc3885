"""Pages for people: what a coreset is, whether it beats random, why these rows; and all coresets side by side."""
