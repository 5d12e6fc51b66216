"""The Dagster code location of ESM-SAE."""
