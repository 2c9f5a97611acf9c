"""The figure of posterior collapse: what each latent carries under each way of training, and what log p(x) gains."""

NOTHING = 0.01
