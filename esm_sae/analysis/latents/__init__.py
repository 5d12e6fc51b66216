"""Latents among themselves: which are alike, which mark clusters, which another seed finds."""
