import pytest

from esm_sae.errors import InputError
from esm_sae_assets.assets.embeddings import embedding_options
from esm_sae_assets.settings import code_version, load_settings


def test_demo_is_the_default_profile():
    settings = load_settings({})
    assert settings.profile == "demo"
    assert settings.embedding.encoder == "esmc_demo"
    assert settings.shard_count == 4


def test_full_profile_has_the_original_sizes():
    settings = load_settings({"ESM_SAE_PROFILE": "uniref50"})
    assert (settings.samples.large_max_length, settings.samples.small_max_length) == (2048, 256)
    assert settings.embedding.encoder == "esmc_300m"
    assert settings.embedding.rows == "mean"
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


def test_the_demo_can_be_set_to_protein_rows():
    settings = load_settings({"ESM_SAE_EMBEDDING_ROWS": "mean"})
    assert embedding_options(settings, seed=0).rows == "mean"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ESM_SAE_PROFILE": "nosuch"}, "no profile 'nosuch'; there are demo, uniref50"),
        ({"ESM_SAE_ENCODRE": "x"}, "ESM_SAE_ENCODRE names no setting"),
        ({"ESM_SAE_SAE_LATENT_DIM": "many"}, "sae.latent_dim = 'many'"),
        ({"ESM_SAE_SAE_KS": "16,16"}, "distinct positive numbers"),
        ({"ESM_SAE_SAE_KS": ""}, "distinct positive numbers"),
        ({"ESM_SAE_EMBEDDING_ROWS": "last"}, "embedding.rows = 'last'"),
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
