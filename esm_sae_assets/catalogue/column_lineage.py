"""From which columns of which assets the columns of a table are."""

import dagster as dg

from esm_sae_assets.settings import LARGE_SAMPLE, SMALL_SAMPLE, Settings

_TRAINING_SAMPLE = "training sample"


def lineage_of(asset: str, settings: Settings) -> dg.TableColumnLineage:
    """Return where the columns of an asset's main table come from.

    Of columns that are computed those are named that decide their values.
    """
    sample = settings.embedding.sample
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(sample if source == _TRAINING_SAMPLE else source, name)
                for source, name in (origin.split(".") for origin in origins.split(", "))
            ]
            for column, origins in _ORIGINS[asset].items()
        }
    )


def _unchanged(source: str, *columns: str) -> dict[str, str]:
    return {column: f"{source}.{column}" for column in columns}


_OF_A_RECORD = ("sequence_id", "header", "taxon", "taxid", "length")

_ORIGINS: dict[str, dict[str, str]] = {
    SMALL_SAMPLE: _unchanged(LARGE_SAMPLE, *_OF_A_RECORD),
    "taxonomy_clusters": _unchanged(LARGE_SAMPLE, "sequence_id", "header", "length", "offset")
    | {"cluster": f"{LARGE_SAMPLE}.taxon, {LARGE_SAMPLE}.taxid", "taxid": f"{LARGE_SAMPLE}.taxid"},
    "embedded_clusters": _unchanged("taxonomy_clusters", "sequence_id", "header")
    | {"taxon": "taxonomy_clusters.cluster"},
    "embedding_shards": _unchanged(_TRAINING_SAMPLE, *_OF_A_RECORD),
    "untrained_embeddings": _unchanged(_TRAINING_SAMPLE, *_OF_A_RECORD),
    "embedding_manifest": _unchanged("embedding_shards", *_OF_A_RECORD, "position"),
    "embedding_clusters": _unchanged("embedding_manifest", "sequence_id", "header", "length"),
    "embedding_cluster_summary": {
        "cluster": "embedding_clusters.cluster",
        "size": "embedding_clusters.cluster",
        "mean_probability": "embedding_clusters.probability",
        "mean_length": "embedding_clusters.length",
        "medoid_id": "embedding_clusters.sequence_id",
        "medoid_header": "embedding_clusters.header",
        "words": "embedding_clusters.header",
        "taxa": "embedding_clusters.header",
    },
    "concept_annotations": _unchanged(_TRAINING_SAMPLE, "sequence_id")
    | {"concept": f"{_TRAINING_SAMPLE}.header"},
    "feature_activations": _unchanged("embedding_manifest", "sequence_id", "position"),
    "feature_taxonomy": {
        "taxon": "embedded_clusters.taxon",
        "firing_frequency": "embedded_clusters.embedding",
    },
    "feature_clusters": _unchanged("feature_activations", "latent")
    | {"other": "feature_activations.latent", "correlation": "feature_activations.activation"},
    "feature_concepts": _unchanged("concept_annotations", "source", "concept")
    | {"latent": "feature_activations.latent", "threshold": "feature_activations.activation"},
    "feature_summary": {
        "latent": "feature_activations.latent",
        "firing_rows": "feature_activations.row",
        "density": "feature_activations.row",
        "firing_proteins": "feature_activations.protein",
        "protein_density": "feature_activations.protein",
        "mean_activation": "feature_activations.activation",
        "max_activation": "feature_activations.activation",
        "top_proteins": "feature_activations.sequence_id, feature_activations.activation",
        "top_taxon": "feature_taxonomy.taxon",
        "top_taxon_normalized_frequency": "feature_taxonomy.normalized_frequency",
        "top_taxon_firing_frequency": "feature_taxonomy.firing_frequency",
        "top_taxon_log2_ratio": "feature_taxonomy.log2_ratio",
        "best_taxon": "feature_taxonomy.taxon",
        "best_taxon_odds_ratio": "feature_taxonomy.odds_ratio",
        "best_taxon_q": "feature_taxonomy.q_value",
        "taxonomic": "feature_taxonomy.taxonomic",
        "best_concept": "feature_concepts.concept",
        "best_concept_source": "feature_concepts.source",
        "best_concept_level": "feature_concepts.level",
        "best_concept_validation_f1": "feature_concepts.validation_f1",
        "best_concept_f1": "feature_concepts.test_f1",
        "best_concept_auroc": "feature_concepts.auroc",
        "nearest_latent": "feature_clusters.other",
        "nearest_cosine": "feature_clusters.cosine",
    },
    "sae_comparison": {
        "unfired_share": "sae_metrics.density",
        "max_decoder_cosine_median": "sae_metrics.max_decoder_cosine",
        "initial_cosine_median": "sae_metrics.initial_cosine",
    },
}
