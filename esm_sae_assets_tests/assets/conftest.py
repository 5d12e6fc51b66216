import dagster as dg
import pytest

from esm_sae_assets.demo import run_graph
from esm_sae_assets.settings import load_settings


def small_settings(source, root, **overrides):
    """The demo's graph, small enough for a test."""
    sections = {
        "samples": {"small_size": 200},
        "embedding": {
            "sequences_per_shard": 100,
            "residues_per_protein": 4,
        },
        "sae": {"latent_dim": 64, "ks": [4, 8], "num_epochs": 2, "batch_size": 64},
        "clusters": {"taxon_min_size": 1, "per_taxon": 2, "min_cluster_size": 3},
    }
    for name, section in overrides.items():
        sections[name] = sections.get(name, {}) | section
    return load_settings({}, source=str(source), data_root=str(root), **sections)


@pytest.fixture(scope="session")
def small_graph(small_source, tmp_path_factory):
    """The whole graph materialised once: its settings, instance and outcome."""
    root = tmp_path_factory.mktemp("graph") / "data"
    settings = small_settings(small_source, root)
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_graph(settings, instance)
        yield settings, instance, outcome


@pytest.fixture
def settings_of(small_source):
    """Build small settings with a data root of the test's own."""

    def build(root, **overrides):
        return small_settings(small_source, root, **overrides)

    return build
