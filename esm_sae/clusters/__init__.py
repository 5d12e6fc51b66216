"""Clusters of proteins: by taxon, by density of the embeddings, and samples of them.

Every output has its manifest beside it under its own name, ``x.json`` -> ``x.json.manifest.json``:
a cluster table and the JSON made from it may share their stem.
"""

from esm_sae.clusters.cluster_map import Layout, require_layout
from esm_sae.clusters.density import cluster_embeddings
from esm_sae.clusters.export import clusters_to_json
from esm_sae.clusters.figures import embedding_map
from esm_sae.clusters.hdbscan_fits import Backend, Selection
from esm_sae.clusters.sampling import subsample_clusters
from esm_sae.clusters.summary import describe_clusters
from esm_sae.clusters.taxa import cluster_taxa
from esm_sae.clusters.taxa_figure import taxa_figure
from esm_sae.clusters.taxon_choice import Organism
from esm_sae.clusters.taxonomy import RANKS, Rank

__all__ = [
    "RANKS",
    "Backend",
    "Layout",
    "Organism",
    "Rank",
    "Selection",
    "cluster_embeddings",
    "cluster_taxa",
    "clusters_to_json",
    "describe_clusters",
    "embedding_map",
    "require_layout",
    "subsample_clusters",
    "taxa_figure",
]
