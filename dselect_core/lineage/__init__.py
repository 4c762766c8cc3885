"""Over the whole graph: the plan of a refresh, the story of a sample, checks of quality, estimates of cost."""
