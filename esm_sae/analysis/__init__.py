"""What latents respond to: activations, taxa, concepts, one another, one summary row per latent."""

from esm_sae.analysis.activations import compute_activations
from esm_sae.analysis.cluster_rows import ClusterRows, open_cluster_rows
from esm_sae.analysis.concepts.annotations import annotate_concepts
from esm_sae.analysis.concepts.baselines import score_baselines
from esm_sae.analysis.concepts.feature_concepts import score_concepts
from esm_sae.analysis.encoder import SparseEncoder
from esm_sae.analysis.latents.clusters import cluster_latents
from esm_sae.analysis.latents.matches import match_latents
from esm_sae.analysis.model_fidelity.measurement import measure_model_fidelity
from esm_sae.analysis.own_sequences import describe_proteins
from esm_sae.analysis.queries import latents_of, scan_activations, top_proteins
from esm_sae.analysis.summary.feature_summary import summarise_latents
from esm_sae.analysis.taxonomy.feature_taxonomy import feature_taxonomy

__all__ = [
    "ClusterRows",
    "SparseEncoder",
    "annotate_concepts",
    "cluster_latents",
    "compute_activations",
    "describe_proteins",
    "feature_taxonomy",
    "latents_of",
    "match_latents",
    "measure_model_fidelity",
    "open_cluster_rows",
    "scan_activations",
    "score_baselines",
    "score_concepts",
    "summarise_latents",
    "top_proteins",
]
