"""The experiments behind the study notes."""
