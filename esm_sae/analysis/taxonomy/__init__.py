"""Taxa: how often latents fire in each, and tests with controls."""
