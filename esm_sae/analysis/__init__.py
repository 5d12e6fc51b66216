"""What latents respond to: activations, taxa, one summary row per latent."""

from esm_sae.analysis.activations import compute_activations, scan_activations
from esm_sae.analysis.cluster_rows import open_cluster_rows
from esm_sae.analysis.encoder import SparseEncoder
from esm_sae.analysis.summary import summarise_latents
from esm_sae.analysis.taxonomy import feature_taxonomy

__all__ = [
    "SparseEncoder",
    "compute_activations",
    "feature_taxonomy",
    "open_cluster_rows",
    "scan_activations",
    "summarise_latents",
]
