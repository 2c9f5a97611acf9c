"""Training objectives: the ELBO and its terms, importance-weighted bounds, free bits, wake–sleep."""
