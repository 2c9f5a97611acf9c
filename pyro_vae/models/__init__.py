"""Programs: a model and a guide, and what surrounds such a pair."""
