"""The assets, one module per group; each has a function that builds them from the settings."""
