"""What the commands do, callable from Python: fit, evaluate, score and compare runs."""
