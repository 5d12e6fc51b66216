"""Names and columns of the tables of an analysis: the analysis writes them, the report reads."""

import polars as pl

# Folder of the activations.
BY_ROW = "by_row"
PROTEINS = "proteins.parquet"
LATENTS = "latents.parquet"
SEQUENCES = "sequences.parquet"

# Folder of the taxonomy.
TAXONOMY = "feature_taxonomy.parquet"
TAXA = "taxa.parquet"
HEATMAP = "heatmap.png"
MAPPING = "feature_taxonomy_mapping.json"

# Folder of the concepts.
FEATURE_CONCEPTS = "feature_concepts.parquet"
CONCEPTS = "concepts.parquet"
CONCEPT_COMPARISON = "comparison.png"

# Folder of the concepts' baselines.
BASELINES = "baselines.parquet"
BASELINE_CONCEPTS = "baseline_concepts.parquet"

# Folder of the clusters of latents.
MARKED_CLUSTERS = "marked_clusters.parquet"
LATENT_MAP = "latent_map.parquet"
LATENT_MAP_FIGURE = "latent_map.png"
NEAR_DUPLICATES = "near_duplicates.parquet"

# Folder of the matches between autoencoders.
MATCHES = "matches.parquet"
MATCH_COMPARISON = "comparison.parquet"
SPLITS = "splits.parquet"
STABILITY = "stability.parquet"
MATCH_FIGURE = "matches.png"
# The SAEs that the tables of matches name, beside their k.
MAIN = "main"
REPLICATE = "replicate"

# Folder of the metrics of an autoencoder, and of what the model loses by it.
SAE_METRICS = "metrics.json"
MODEL_FIDELITY = "model_fidelity.json"
FIDELITY_BY_RESIDUE = "by_residue.parquet"
FIDELITY_FIGURE = "model_fidelity.png"

# Folder of one's own sequences.
PROTEIN_LATENTS = "protein_latents.parquet"
RESIDUE_LATENTS = "residue_latents.parquet"
CANDIDATES = "candidates.parquet"

TAXONOMY_SCHEMA = {
    "latent": pl.UInt32,
    "taxon": pl.String,
    "proteins": pl.UInt32,
    "firing_proteins": pl.UInt32,
    "firing_frequency": pl.Float64,
    "frequency_low": pl.Float64,
    "frequency_high": pl.Float64,
    "mean_activation": pl.Float32,
    "normalized_frequency": pl.Float64,
    "other_frequency": pl.Float64,
    "log2_ratio": pl.Float64,
    "clusters": pl.UInt32,
    "firing_clusters": pl.UInt32,
    "specificity": pl.Float64,
    "odds_ratio": pl.Float64,
    "odds_ratio_low": pl.Float64,
    "odds_ratio_high": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
    "q_value_dependent": pl.Float64,
    "taxonomic": pl.Boolean,
}
ANNOTATION_SCHEMA = {
    "source": pl.String,
    "concept": pl.String,
    "sequence_id": pl.String,
    "start": pl.UInt32,
    "end": pl.UInt32,
}
FEATURE_CONCEPT_SCHEMA = {
    "latent": pl.UInt32,
    "source": pl.String,
    "concept": pl.String,
    "level": pl.String,
    "threshold": pl.Float32,
    "validation_precision": pl.Float64,
    "validation_recall": pl.Float64,
    "validation_f1": pl.Float64,
    "test_precision": pl.Float64,
    "test_recall": pl.Float64,
    "test_f1": pl.Float64,
    "auroc": pl.Float64,
    "chosen": pl.Boolean,
}
CONCEPT_SCHEMA = {
    "source": pl.String,
    "concept": pl.String,
    "level": pl.String,
    "positives": pl.UInt32,
    "validation_positives": pl.UInt32,
    "test_positives": pl.UInt32,
    "validation_clusters": pl.UInt32,
    "test_clusters": pl.UInt32,
    "eligible": pl.Boolean,
    "latent": pl.UInt32,
    "threshold": pl.Float32,
    "validation_f1": pl.Float64,
    "test_f1": pl.Float64,
    "f1_low": pl.Float64,
    "f1_high": pl.Float64,
    "trivial_f1": pl.Float64,
    "validation_trivial_f1": pl.Float64,
    "auroc": pl.Float64,
}
BASELINE_SCHEMA = {
    "method": pl.String,
    "k": pl.UInt32,
    "level": pl.String,
    "candidates": pl.UInt32,
    "concepts": pl.UInt32,
    "pooled_f1": pl.Float64,
    "pooled_f1_low": pl.Float64,
    "pooled_f1_high": pl.Float64,
    "mean_f1": pl.Float64,
    "mean_auroc": pl.Float64,
}
BASELINE_CONCEPT_SCHEMA = {
    "method": pl.String,
    "k": pl.UInt32,
    "source": pl.String,
    "concept": pl.String,
    "level": pl.String,
    "pooled": pl.Boolean,
    "feature": pl.UInt32,
    "threshold": pl.Float32,
    "validation_f1": pl.Float64,
    "test_f1": pl.Float64,
    "f1_low": pl.Float64,
    "f1_high": pl.Float64,
    "auroc": pl.Float64,
}
MARKED_CLUSTER_SCHEMA = {
    "latent": pl.UInt32,
    "cluster": pl.Int32,
    "label": pl.String,
    "size": pl.UInt32,
    "threshold": pl.Float32,
    "train_f1": pl.Float64,
    "precision": pl.Float64,
    "recall": pl.Float64,
    "f1": pl.Float64,
    "held_out": pl.UInt32,
}
LATENT_MAP_SCHEMA = {
    "latent": pl.UInt32,
    "x": pl.Float32,
    "y": pl.Float32,
    "cluster": pl.Int32,
    "probability": pl.Float32,
}
NEAR_DUPLICATE_SCHEMA = {
    "latent": pl.UInt32,
    "other": pl.UInt32,
    "cosine": pl.Float32,
    "correlation": pl.Float32,
}
MATCH_SCHEMA = {
    "sae": pl.String,
    "other": pl.String,
    "k": pl.UInt32,
    "other_k": pl.UInt32,
    "latent": pl.UInt32,
    "cosine_latent": pl.UInt32,
    "cosine": pl.Float32,
    "cosine_mutual": pl.Boolean,
    "correlation_latent": pl.UInt32,
    "correlation": pl.Float32,
    "correlation_mutual": pl.Boolean,
}
MATCH_COMPARISON_SCHEMA = {
    "sae": pl.String,
    "other": pl.String,
    "k": pl.UInt32,
    "other_k": pl.UInt32,
    "live": pl.UInt32,
    "rare": pl.UInt32,
    "silent": pl.UInt32,
    "cosine_matched": pl.Float64,
    "cosine_mutual": pl.Float64,
    "cosine_median": pl.Float64,
    "cosine_ceiling": pl.Float64,
    "cosine_chance": pl.Float64,
    "cosine_chance_median": pl.Float64,
    "correlation_matched": pl.Float64,
    "correlation_mutual": pl.Float64,
    "correlation_median": pl.Float64,
    "correlation_ceiling": pl.Float64,
    "correlation_chance": pl.Float64,
    "correlation_chance_median": pl.Float64,
    "split": pl.UInt32,
    "split_at_same_k": pl.UInt32,
}
SPLIT_SCHEMA = {
    "sae": pl.String,
    "other": pl.String,
    "k": pl.UInt32,
    "other_k": pl.UInt32,
    "latent": pl.UInt32,
    "other_latent": pl.UInt32,
    "correlation": pl.Float32,
    "inside": pl.Float32,
    "covered": pl.Float32,
    "parts": pl.UInt32,
    "joint_correlation": pl.Float32,
}
STABILITY_SCHEMA = {
    "k": pl.UInt32,
    "latent": pl.UInt32,
    "cosine": pl.Float32,
    "correlation": pl.Float32,
    "stable": pl.Boolean,
}
SUMMARY_ADDITIONS = {
    "best_taxon": pl.String,
    "best_taxon_odds_ratio": pl.Float64,
    "best_taxon_q": pl.Float64,
    "taxonomic": pl.Boolean,
    "best_concept": pl.String,
    "best_concept_source": pl.String,
    "best_concept_level": pl.String,
    "best_concept_validation_f1": pl.Float64,
    "best_concept_f1": pl.Float64,
    "best_concept_auroc": pl.Float64,
    "marked_cluster": pl.Int32,
    "marked_cluster_label": pl.String,
    "marked_cluster_f1": pl.Float64,
    "decoder_cluster": pl.Int32,
    "map_x": pl.Float32,
    "map_y": pl.Float32,
    "nearest_latent": pl.UInt32,
    "nearest_cosine": pl.Float32,
    "stability_cosine": pl.Float32,
    "stability_correlation": pl.Float32,
    "stable": pl.Boolean,
    "similarity_clusters": pl.UInt32,
    "similarity_entropy": pl.Float64,
    "memory": pl.Boolean,
    "label": pl.String,
    "label_kind": pl.String,
    "label_level": pl.String,
    "label_threshold": pl.Float32,
    "label_score": pl.Float64,
    "label_precision": pl.Float64,
    "label_recall": pl.Float64,
    "label_baseline": pl.Float64,
    "label_held_out": pl.UInt32,
}
PROTEIN_LATENT_SCHEMA = {
    "protein": pl.UInt32,
    "sequence_id": pl.String,
    "latent": pl.UInt32,
    "activation": pl.Float32,
    "share_of_max": pl.Float32,
    "position": pl.Int32,
    "firing_rows": pl.UInt32,
    "density": pl.Float64,
    "share_as_strong": pl.Float64,
    "prominence": pl.Float64,
    "label": pl.String,
    "label_kind": pl.String,
    "label_score": pl.Float64,
}
RESIDUE_LATENT_SCHEMA = {
    "protein": pl.UInt32,
    "sequence_id": pl.String,
    "position": pl.Int32,
    "residue": pl.String,
    "latent": pl.UInt32,
    "activation": pl.Float32,
    "label": pl.String,
}
CANDIDATE_SCHEMA = {
    "protein": pl.UInt32,
    "sequence_id": pl.String,
    "name": pl.String,
    "source": pl.String,
    "concept": pl.String,
    "latent": pl.UInt32,
    "threshold": pl.Float32,
    "activation": pl.Float32,
    "position": pl.Int32,
    "firing_rows": pl.UInt32,
    "firing_chance": pl.Float64,
    "test_precision": pl.Float64,
    "test_f1": pl.Float64,
    "f1_low": pl.Float64,
    "f1_high": pl.Float64,
}


LEAST_SKILL = 0.2
"""``concept_skill`` from which a latent is said to mark a concept: of the best of many thresholds
on a few positives, less is chance."""


def concept_skill() -> pl.Expr:
    """Return how far F1 on validation goes from that of calling every unit there to 1.

    F1 of calling everything rises with how common a concept is: initiator methionines, which
    nine of ten proteins have, are told with an F1 of 0.95 by a latent that always fires. It is 0
    where every unit bears the concept.
    """
    trivial = pl.col("validation_trivial_f1").fill_null(0)
    gain = pl.col("validation_f1") - trivial
    return pl.when(trivial < 1).then(gain / (1 - trivial)).otherwise(0.0)
