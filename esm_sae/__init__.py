"""Sparse autoencoders on ESM-C embeddings: sampling, embedding, training, analysis.

The library behind the commands ``python -m esm_sae.<command>`` and the Dagster assets in
``esm_sae_assets``. It never imports Dagster.
"""

__version__ = "0.1.0"
