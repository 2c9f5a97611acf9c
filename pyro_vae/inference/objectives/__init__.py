"""The objectives of a fit: the ELBO, importance-weighted bounds, free bits and wake–sleep."""
