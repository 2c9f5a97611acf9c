"""What is measured of a fitted program: inference gaps, anomalies, the latent space, and draws against data."""
