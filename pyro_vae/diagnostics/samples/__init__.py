"""Rows that were drawn beside rows of a table: columns, pairs of columns, and how near training rows they are."""
