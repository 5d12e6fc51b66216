"""One row per latent, with a name drafted on training proteins and scored on held-out ones."""
