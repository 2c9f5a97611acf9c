"""log p(x) of rows: estimates and bounds, with their diagnostics."""
