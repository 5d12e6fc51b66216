import pytest


@pytest.fixture
def small_environment(small_source):
    """The variables that make the demo's graph small enough for a test."""
    return {
        "ESM_SAE_SOURCE": str(small_source),
        "ESM_SAE_SAMPLES_SMALL_SIZE": "100",
        "ESM_SAE_EMBEDDING_SEQUENCES_PER_SHARD": "50",
        "ESM_SAE_EMBEDDING_RESIDUES_PER_PROTEIN": "4",
        "ESM_SAE_SAE_LATENT_DIM": "32",
        "ESM_SAE_SAE_KS": "2,4",
        "ESM_SAE_SAE_NUM_EPOCHS": "1",
        "ESM_SAE_CLUSTERS_TAXON_MIN_SIZE": "1",
        "ESM_SAE_CLUSTERS_PER_TAXON": "1",
        "ESM_SAE_CLUSTERS_MIN_CLUSTER_SIZE": "3",
    }
