"""Concepts: what is known of proteins, which latents mark it, and what else would."""
