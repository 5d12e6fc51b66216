from typing import get_args

import pytest

from esm_sae.embedding import EmbeddingOptions, encoder_names
from esm_sae.embedding.encoders import known_size, untrained_name
from esm_sae.embedding.options import DTYPES, LONG_SEQUENCES, POOLINGS
from esm_sae.errors import InputError
from esm_sae.sae import TrainOptions
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.assets.sae import train_options
from esm_sae_assets.settings import (
    EmbeddingSettings,
    SAESettings,
    code_version,
    load_settings,
    profile_names,
)

# Width of a row of each encoder that a profile names.
WIDTHS = {"esmc_demo": 256, "esmc_300m": 960}
BYTES_PER_NUMBER = {"float32": 4, "float16": 2}


def test_demo_is_the_default_profile():
    settings = load_settings({})
    assert settings.profile == "demo"
    assert settings.embedding.encoder == "esmc_demo"
    assert settings.shard_count == 4


def test_full_profile_has_the_original_sizes():
    settings = load_settings({"ESM_SAE_PROFILE": "uniref50"})
    assert (settings.samples.large_max_length, settings.samples.small_max_length) == (2048, 256)
    assert settings.embedding.encoder == "esmc_300m"
    assert settings.embedding.pooling == "mean"
    assert settings.sae.latent_dim == 3840
    assert settings.sae.ks == (16, 32, 64)
    assert settings.shard_count == 64


def test_environment_overlays_the_profile_and_overrides_overlay_both():
    environment = {"ESM_SAE_SAE_KS": "8,16", "ESM_SAE_SEED": "5", "HOME": "/nowhere"}
    settings = load_settings(environment, seed=6)
    assert settings.sae.ks == (8, 16)
    assert settings.seed == 6
    assert settings.sae.latent_dim == load_settings({}).sae.latent_dim


def test_taxa_are_a_list_in_the_environment():
    settings = load_settings({"ESM_SAE_SAMPLES_TAXA": "9606, Mus musculus, "})
    assert settings.samples.taxa == ("9606", "Mus musculus")
    assert load_settings({}).samples.taxa == ()


def test_trackers_are_a_list_in_the_environment_and_are_checked():
    assert load_settings({}).tracking == ()
    chosen = load_settings({"ESM_SAE_TRACKING": "tensorboard, wandb"})
    assert chosen.tracking == ("tensorboard", "wandb")
    with pytest.raises(InputError, match="'mlflow' is none of tensorboard, wandb"):
        load_settings({"ESM_SAE_TRACKING": "mlflow"})
    with pytest.raises(InputError, match="expected a folder of the machine that trains"):
        load_settings({"ESM_SAE_TRACKING_DIR": "s3://bucket/tracking"})


def test_the_residue_profile_is_the_full_one_with_a_row_per_residue():
    residue = load_settings({"ESM_SAE_PROFILE": "uniref50_residue"})
    full = load_settings({"ESM_SAE_PROFILE": "uniref50"})
    assert residue.embedding.pooling == "residue"
    assert (residue.embedding.encoder, residue.samples) == (full.embedding.encoder, full.samples)
    assert (residue.source, residue.clusters) == (full.source, full.clusters)


@pytest.mark.parametrize("profile", profile_names())
def test_a_shard_is_at_most_a_gigabyte(profile):
    chosen = load_settings({}, profile=profile).embedding
    rows = chosen.sequences_per_shard
    if chosen.pooling == "residue":
        rows *= chosen.residues_per_protein
    assert rows * WIDTHS[chosen.encoder] * BYTES_PER_NUMBER[chosen.dtype] < 1e9


def test_the_settings_take_what_the_library_takes():
    fields = EmbeddingSettings.model_fields
    assert get_args(fields["pooling"].annotation) == POOLINGS
    assert get_args(fields["long_sequences"].annotation) == LONG_SEQUENCES
    assert get_args(fields["dtype"].annotation) == DTYPES


def test_the_settings_become_the_options_of_the_library():
    environment = {
        "ESM_SAE_EMBEDDING_POOLING": "residue",
        "ESM_SAE_EMBEDDING_RESIDUES_PER_PROTEIN": "7",
        "ESM_SAE_EMBEDDING_LAYER": "1",
        "ESM_SAE_EMBEDDING_DTYPE": "float16",
        "ESM_SAE_EMBEDDING_BATCH_TOKENS": "999",
        "ESM_SAE_EMBEDDING_MAX_LENGTH": "500",
        "ESM_SAE_EMBEDDING_LONG_SEQUENCES": "window",
    }
    assert embedding_options(load_settings(environment), seed=3) == EmbeddingOptions(
        pooling="residue",
        residues_per_protein=7,
        layer=1,
        dtype="float16",
        batch_tokens=999,
        max_length=500,
        long_sequences="window",
        seed=3,
    )


def test_the_settings_of_a_training_become_the_options_of_the_library():
    environment = {
        "ESM_SAE_SAE_LATENT_DIM": "512",
        "ESM_SAE_SAE_PRECISION": "bfloat16",
        "ESM_SAE_SAE_AUX_ALPHA": "0",
        "ESM_SAE_SAE_AUX_K": "9",
        "ESM_SAE_SAE_LATENT_BIAS": "false",
        "ESM_SAE_SAE_TIED": "true",
        "ESM_SAE_SAE_NORMALIZE": "true",
        "ESM_SAE_SAE_CHECKPOINT_EVERY": "2",
        "ESM_SAE_SPLIT_SEED": "4",
    }
    chosen = {"num_epochs": 3, "batch_size": 64, "learning_rate": 1e-2, "seed": 5}
    assert train_options(load_settings(environment), **chosen) == TrainOptions(
        latent_dim=512,
        batch_size=64,
        num_epochs=3,
        learning_rate=1e-2,
        aux_k=9,
        aux_alpha=0,
        latent_bias=False,
        precision="bfloat16",
        tied=True,
        normalize=True,
        checkpoint_every=2,
        seed=5,
        split_seed=4,
    )


@pytest.mark.parametrize(
    "name",
    ["latent_dim", "aux_k", "aux_alpha", "latent_bias", "tied", "normalize", "precision"],
)
def test_a_training_has_the_defaults_of_the_library(name):
    default = SAESettings.model_fields[name].default
    assert getattr(TrainOptions(latent_dim=3840), name) == default


@pytest.mark.parametrize("name", ["esmc_300m", "esmc_600m", "esmc_demo"])
def test_every_encoder_has_an_untrained_twin_of_its_size(name):
    assert untrained_name(name) in encoder_names()
    assert known_size(untrained_name(name)) == known_size(name)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "bos"])
def test_the_demo_can_be_set_to_protein_rows(pooling):
    settings = load_settings({"ESM_SAE_EMBEDDING_POOLING": pooling})
    options = embedding_options(settings, seed=0)
    assert (options.pooling, options.residues_per_protein) == (pooling, None)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"ESM_SAE_PROFILE": "nosuch"},
            "no profile 'nosuch'; there are demo, uniref50, uniref50_residue",
        ),
        ({"ESM_SAE_ENCODRE": "x"}, "ESM_SAE_ENCODRE names no setting"),
        ({"ESM_SAE_SAE_LATENT_DIM": "many"}, "sae.latent_dim = 'many'"),
        ({"ESM_SAE_SAE_KS": "16,16"}, "distinct positive numbers"),
        ({"ESM_SAE_SAE_KS": ""}, "distinct positive numbers"),
        ({"ESM_SAE_EMBEDDING_POOLING": "median"}, "embedding.pooling = 'median'"),
        ({"ESM_SAE_EMBEDDING_MAX_LENGTH": "0"}, "embedding.max_length = '0'"),
        ({"ESM_SAE_EMBEDDING_LONG_SEQUENCES": "fold"}, "embedding.long_sequences = 'fold'"),
        ({"ESM_SAE_SAE_PRECISION": "float16"}, "sae.precision = 'float16'"),
        ({"ESM_SAE_SAE_AUX_ALPHA": "inf"}, "sae.aux_alpha = 'inf'"),
        ({"ESM_SAE_CLUSTERS_RANK": "genus"}, "rank 'genus' needs a taxonomy"),
        ({"ESM_SAE_CLUSTERS_RANK": "tribe"}, "clusters.rank = 'tribe'"),
        (
            {"ESM_SAE_CLUSTERS_SPECIES_LIST": "speclist.txt"},
            "species_list is read only with organism = representative",
        ),
        (
            {
                "ESM_SAE_CLUSTERS_ORGANISM": "representative",
                "ESM_SAE_CLUSTERS_TAXONOMY": "taxdump",
            },
            "set clusters.species_list",
        ),
        (
            {
                "ESM_SAE_CLUSTERS_TAXONOMY": "taxdump",
                "ESM_SAE_CLUSTERS_TAXONOMY_CHECKSUM": "md5:0",
            },
            "taxonomy_checksum is that of a download",
        ),
        ({"ESM_SAE_CLUSTERS_MAP": "tsne"}, "clusters.map = 'tsne'"),
        (
            {"ESM_SAE_EMBEDDING_ENCODER": "mine"},
            "encoder 'mine' has no untrained twin; register 'mine_untrained', or set "
            "ESM_SAE_SAE_UNTRAINED_BASELINE=false",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named(environment, message):
    with pytest.raises(InputError, match="settings: ") as caught:
        load_settings(environment)
    assert message in str(caught.value)


def test_an_encoder_of_ones_own_needs_no_twin_without_the_baseline():
    environment = {"ESM_SAE_EMBEDDING_ENCODER": "mine", "ESM_SAE_SAE_UNTRAINED_BASELINE": "false"}
    assert load_settings(environment).embedding.encoder == "mine"


def test_an_unknown_override_is_an_error():
    with pytest.raises(InputError, match="latent_dims"):
        load_settings({}, sae={"latent_dims": 5})


def test_code_version_changes_with_the_algorithm_and_with_each_setting():
    one = load_settings({})
    other = load_settings({}, sae={"num_epochs": 1})
    versions = {code_version(1, one.sae), code_version(2, one.sae), code_version(1, other.sae)}
    assert len(versions) == 3
    assert code_version(1, one.sae) == code_version(1, load_settings({}).sae)


@pytest.mark.parametrize(
    "chosen",
    [{"ks": [4, 8]}, {"replicate": True}, {"untrained_baseline": True}],
    ids=str,
)
def test_what_needs_a_training_is_refused_beside_an_imported_sae(chosen):
    fitting = {"imported": "sae", "ks": [8], "replicate": False, "untrained_baseline": False}
    assert load_settings({}, sae=fitting).sae.imported == "sae"
    with pytest.raises(InputError, match="no training that could be repeated; set ESM_SAE_SAE_KS"):
        load_settings({}, sae=fitting | chosen)


def test_an_imported_sae_is_at_a_path():
    with pytest.raises(InputError, match="imported is a URL"):
        load_settings({"ESM_SAE_SAE_IMPORTED": "https://example.org/layer_3.safetensors"})
