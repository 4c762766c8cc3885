"""In which processes scores are computed: the run's own, or workers of a Ray cluster."""
