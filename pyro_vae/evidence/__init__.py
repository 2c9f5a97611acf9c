"""log p(x) of rows: estimates, bounds, and what says whether to believe them."""
