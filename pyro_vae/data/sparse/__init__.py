"""Rows whose zeros are not stored, made dense batch by batch."""
