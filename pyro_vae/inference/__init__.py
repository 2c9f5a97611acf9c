"""Ways to climb the evidence lower bound."""
