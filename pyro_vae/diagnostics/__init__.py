"""What evidence is used for: where gaps come from, strange rows, runs compared, draws against data, NUTS beside q."""
