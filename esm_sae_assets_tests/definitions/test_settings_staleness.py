"""Every setting makes stale what reads it, and nothing else."""

import pytest

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import Settings, load_settings

TRAINED = {"sae_checkpoint", "sae_replicate", "sae_untrained"}
EMBEDDED = {"embedding_shards", "untrained_embeddings"}
SPLICED = {"sae_model_fidelity"}
HELD_OUT = TRAINED | {
    "sae_metrics",
    "sae_model_fidelity",
    "feature_clusters",
    "feature_concepts",
    "feature_summary",
    "latent_matches",
    "concept_baselines",
}
DRAWN = {
    "uniref50_10M_sample",
    "uniref50_1M_sample",
    "sampled_sequences",
    "embedding_clusters",
    "embedding_cluster_summary",
    "feature_taxonomy",
    "feature_clusters",
    "feature_concepts",
    "latent_matches",
    "concept_baselines",
}
TAXDUMP = "https://example.org/taxdump.tar.gz"

# Setting: another value than the demo's, and what reads it.
READ_BY = {
    "source": ("/proteins.fasta", {"uniref50_fasta"}),
    "source_checksum": ("md5:0", {"uniref50_fasta"}),
    "source_metalink": ("/RELEASE.metalink", {"uniref50_fasta"}),
    "similarity_clusters": (
        "",
        HELD_OUT | {"feature_taxonomy", "embedding_cluster_summary"},
    ),
    "seed": (1, DRAWN | TRAINED | EMBEDDED | SPLICED),
    "split_seed": (1, HELD_OUT),
    "samples.large_size": (9, {"uniref50_10M_sample"}),
    "samples.large_max_length": (9, {"uniref50_10M_sample"}),
    "samples.small_size": (
        9_000,
        {"uniref50_1M_sample", "embedding_shards", "embedding_manifest"},
    ),
    "samples.small_max_length": (9, {"uniref50_1M_sample", "sampled_sequences"}),
    "samples.min_length": (
        9,
        {"uniref50_10M_sample", "uniref50_1M_sample", "sampled_sequences"},
    ),
    "samples.letters": ("AC", {"uniref50_10M_sample"}),
    "samples.taxa": (["9606"], {"uniref50_10M_sample"}),
    "samples.drop_identical": (True, {"uniref50_10M_sample"}),
    "embedding.sample": (
        "uniref50_10M_sample",
        {
            *(EMBEDDED | {"embedding_manifest", "embedding_clusters_json"}),
            *("concept_annotations", "concept_baselines", "feature_activations"),
            *SPLICED,
        },
    ),
    "embedding.encoder": ("esmc_300m", EMBEDDED | SPLICED | {"embedded_clusters"}),
    "embedding.weights": ("/encoder.pth", SPLICED | {"embedding_shards", "embedded_clusters"}),
    "embedding.layer": (1, EMBEDDED | SPLICED | {"embedded_clusters"}),
    "embedding.pooling": (
        "max",
        EMBEDDED | SPLICED | {"embedded_clusters", "feature_report", "sae_release"},
    ),
    "embedding.residues_per_protein": (9, EMBEDDED),
    "embedding.max_length": (9, EMBEDDED | SPLICED | {"embedded_clusters"}),
    "embedding.long_sequences": ("skip", EMBEDDED | {"embedded_clusters"}),
    "embedding.sequences_per_shard": (
        1_000,
        EMBEDDED | {"embedding_manifest"},
    ),
    "embedding.dtype": ("float16", EMBEDDED),
    "embedding.device": ("cpu", EMBEDDED | SPLICED | {"embedded_clusters"}),
    "embedding.precision": ("bfloat16", EMBEDDED | SPLICED | {"embedded_clusters"}),
    "embedding.batch_tokens": (99, EMBEDDED | SPLICED | {"embedded_clusters"}),
    "sae.latent_dim": (9, TRAINED),
    "sae.ks": ([16, 32], {"sae_comparison", "latent_matches", "concept_baselines"}),
    "sae.batch_size": (9, TRAINED),
    "sae.num_epochs": (9, TRAINED),
    "sae.learning_rate": (0.1, TRAINED),
    "sae.precision": ("bfloat16", TRAINED),
    "sae.aux_alpha": (0.5, TRAINED),
    "sae.aux_k": (9, TRAINED),
    "sae.latent_bias": (False, TRAINED),
    "sae.tied": (True, TRAINED),
    "sae.normalize": (True, TRAINED),
    "sae.normalize_ddof": (1, TRAINED),
    "sae.activation": ("batchtopk", TRAINED),
    "sae.prefixes": ((7,), TRAINED),
    "sae.k_start": (4, TRAINED),
    "sae.checkpoint_every": (9, TRAINED),
    "sae.project": ("trials", TRAINED),
    "sae.license": ("cc-by-4.0", {"sae_release"}),
    "sae.fidelity_proteins": (9, SPLICED),
    "sae.replicate": (
        False,
        {"sae_replicate", "latent_matches", "feature_summary", "feature_report"},
    ),
    "sae.untrained_baseline": (
        False,
        {"sae_untrained", "untrained_embeddings", "sae_metrics", "concept_baselines"},
    ),
    "clusters.taxonomy": ("/taxdump", {"taxonomy_clusters"}),
    "clusters.organism": ("representative", {"taxonomy_clusters"}),
    "clusters.taxon_min_size": (9, {"sampled_sequences"}),
    "clusters.per_taxon": (9, {"sampled_sequences"}),
    "clusters.match_lengths": (True, {"sampled_sequences"}),
    "clusters.min_cluster_size": (9, {"embedding_clusters"}),
    "clusters.min_samples": (9, {"embedding_clusters"}),
    "clusters.components": (9, {"embedding_clusters"}),
    "clusters.fit_rows": (9, {"embedding_clusters"}),
    "clusters.selection": ("leaf", {"embedding_clusters"}),
    "clusters.backend": ("fast_hdbscan", {"embedding_clusters"}),
    "clusters.map": ("umap", {"embedding_cluster_summary"}),
    "analysis.annotations": ("/annotations.tsv", {"concept_annotations"}),
    "analysis.min_positives": (9, {"feature_concepts", "concept_baselines"}),
    "analysis.permutations": (9, {"feature_taxonomy"}),
    "analysis.decoder_min_cluster_size": (9, {"feature_clusters"}),
    "analysis.match_rows": (9, {"latent_matches"}),
}
# Those that ask for others beside them, which stand in both graphs.
WITH = {
    "sae.imported": (
        {"ks": [16], "replicate": False, "untrained_baseline": False},
        "/sae.npy",
        {"sae_checkpoint"},
    ),
    "clusters.taxonomy_checksum": (
        {"taxonomy": TAXDUMP},
        "md5:0",
        {"taxonomy"},
    ),
    "clusters.rank": ({"taxonomy": TAXDUMP}, "genus", {"taxonomy_clusters"}),
    "clusters.species_list": (
        {"taxonomy": "", "organism": "representative"},
        "/speclist.txt",
        {"taxonomy_clusters"},
    ),
}
SECTIONS = ("samples", "embedding", "sae", "clusters", "analysis")
# Where files lie is no part of an output, nor is what shows its making.
NOT_READ = {
    "data_root": "/elsewhere",
    "cache": "/elsewhere",
    "tracking": ("wandb",),
    "tracking_dir": "/elsewhere",
}


def test_every_setting_that_decides_bytes_is_in_the_table():
    sections = {name: Settings.model_fields[name].annotation for name in SECTIONS}
    named = {
        f"{name}.{field}" for name, section in sections.items() for field in section.model_fields
    }
    whole = {
        name
        for name, field in Settings.model_fields.items()
        if field.annotation in (str, int) and name not in {"profile", *NOT_READ}
    }
    assert READ_BY.keys() | WITH.keys() == named | whole


@pytest.mark.parametrize("setting", READ_BY)
def test_a_setting_makes_stale_what_reads_it(setting, demo):
    value, expected = READ_BY[setting]
    assert _changed(demo, _inputs_and_versions(**_nested(setting, value))) == expected


@pytest.mark.parametrize("setting", WITH)
def test_a_setting_beside_others_makes_stale_what_reads_it(setting):
    beside, value, expected = WITH[setting]
    section, name = setting.split(".")
    before = _inputs_and_versions(**{section: beside})
    assert _changed(before, _inputs_and_versions(**{section: beside | {name: value}})) == expected


@pytest.mark.parametrize(
    "setting",
    [
        "embedding.weights",
        "source",
        "source_metalink",
        "similarity_clusters",
        "analysis.annotations",
    ],
)
def test_a_file_that_is_replaced_in_place_is_noticed(setting, tmp_path):
    file = tmp_path / "file"
    file.write_text("first")
    before = _inputs_and_versions(**_nested(setting, str(file)))
    assert _inputs_and_versions(**_nested(setting, str(file))) == before
    file.write_text("second")
    expected = READ_BY[setting][1]
    assert _changed(before, _inputs_and_versions(**_nested(setting, str(file)))) == expected


def test_another_release_of_the_bundled_proteins_is_noticed(demo, monkeypatch):
    hashes = {"proteins.fasta.gz": "0", "similarity_clusters.parquet": "1"}
    monkeypatch.setattr("esm_sae_assets.external.provenance", lambda: {"sha256": hashes})
    expected = READ_BY["source"][1] | READ_BY["similarity_clusters"][1]
    assert _changed(demo, _inputs_and_versions()) == expected


@pytest.mark.parametrize("setting", NOT_READ)
def test_where_files_lie_makes_nothing_stale(setting, demo):
    assert _inputs_and_versions(**{setting: NOT_READ[setting]}) == demo


def test_the_number_of_a_device_decides_nothing():
    first, second = ({"embedding": {"device": f"cuda:{number}"}} for number in range(2))
    assert _inputs_and_versions(**first) == _inputs_and_versions(**second)


@pytest.fixture(scope="module")
def demo():
    return _inputs_and_versions()


def _inputs_and_versions(**overrides):
    """Return what decides whether Dagster calls an asset stale: its code version and inputs."""
    graph = build_defs(load_settings({}, **overrides)).resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    return {name: (node.code_version, node.parent_keys) for name, node in nodes.items()}


def _changed(before, after):
    return {name for name in before if after.get(name) != before[name]}


def _nested(setting, value):
    section, _, name = setting.rpartition(".")
    return {section: {name: value}} if section else {name: value}
