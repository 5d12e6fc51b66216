from typing import get_args

import pytest

from esm_sae.embedding import EmbeddingOptions
from esm_sae.embedding.options import DTYPES, LONG_SEQUENCES, POOLINGS
from esm_sae.errors import InputError
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.settings import (
    EmbeddingSettings,
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
    ],
)
def test_a_setting_that_does_not_fit_is_named(environment, message):
    with pytest.raises(InputError, match="settings: ") as caught:
        load_settings(environment)
    assert message in str(caught.value)


def test_an_unknown_override_is_an_error():
    with pytest.raises(InputError, match="latent_dims"):
        load_settings({}, sae={"latent_dims": 5})


def test_code_version_changes_with_the_algorithm_and_with_each_setting():
    one = load_settings({})
    other = load_settings({}, sae={"num_epochs": 1})
    versions = {code_version(1, one.sae), code_version(2, one.sae), code_version(1, other.sae)}
    assert len(versions) == 3
    assert code_version(1, one.sae) == code_version(1, load_settings({}).sae)
