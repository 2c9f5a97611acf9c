"""Models and fit methods by name, fitted and scored on the same rows."""
