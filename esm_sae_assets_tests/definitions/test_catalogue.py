from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.metadata import CodeReferencesMetadataSet

from esm_sae.errors import InputError
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
DATED = {
    "uniref50_fasta",
    "uniref50_10M_sample",
    "uniref50_1M_sample",
    "feature_report",
    "embedding_cluster_report",
}


def test_every_asset_has_owner_kind_and_description():
    specs = _specs(load_settings({}))
    assert len(specs) > 25
    for name, spec in specs.items():
        assert spec.owners == ["team:esm-sae"], name
        assert spec.kinds, name
        # The list of all assets shows the first line as plain text.
        first = (spec.description or "").partition("\n")[0]
        assert first.endswith("."), name
        assert "`" not in first, name
        assert spec.tags["esm_sae/profile"] == "demo"


def test_the_description_says_what_a_row_is_where_there_are_rows():
    specs = _specs(load_settings({}))
    without = {
        *("sae_checkpoint", "sae_replicate", "sae_untrained"),
        *("sae_release", "feature_report", "embedding_cluster_report", "embedding_changes"),
    }
    for name in specs.keys() - without:
        description = specs[name].description or ""
        assert any(word in description.lower() for word in ("row", "record", "entry")), name


def test_owners_are_those_of_the_settings():
    settings = load_settings({"ESM_SAE_CATALOGUE_OWNERS": "team:proteins, ada@example.org"})
    owners = {tuple(spec.owners) for spec in _specs(settings).values()}
    assert owners == {("team:proteins", "ada@example.org")}
    with pytest.raises(InputError, match=r"catalogue.owners .* e-mail addresses and team:NAME"):
        load_settings({"ESM_SAE_CATALOGUE_OWNERS": "proteins"})


def test_the_code_of_an_asset_is_where_its_link_says():
    specs = _specs(load_settings({}))
    for name, spec in specs.items():
        if name == "embedding_changes":  # No code makes it.
            continue
        (local,) = _code(spec)
        lines = Path(local.file_path).read_text().splitlines()
        around = "\n".join(lines[local.line_number - 1 : local.line_number + 30])
        assert f"def {name}(" in around, name


def test_code_on_the_web_is_linked_there():
    address = "https://git.example.org/proteins/esm-sae/blob/v1/"
    specs = _specs(load_settings({}, catalogue={"code_url": address}))
    (link,) = _code(specs["sae_metrics"])
    file, line = link.url.removeprefix(address).split("#L")
    assert (REPOSITORY / file).is_file()
    assert int(line) > 1


def test_source_samples_and_reports_grow_old():
    settings = load_settings({}, profile="uniref50")
    policies = {name: spec.freshness_policy for name, spec in _specs(settings).items()}
    assert {name for name, policy in policies.items() if policy is not None} == DATED
    policy = policies["feature_report"]
    assert policy.warn_window.to_timedelta().days == 63
    assert policy.fail_window.to_timedelta().days == 94


def test_what_the_bundled_proteins_give_never_grows_old():
    assert not any(spec.freshness_policy for spec in _specs(load_settings({})).values())


def test_a_download_says_where_it_comes_from():
    source = "https://example.org/uniref50.fasta.gz"
    asset = _specs(load_settings({}, source=source))["uniref50_fasta"]
    assert asset.metadata["dagster/uri"] == source
    assert "dagster/uri" not in _specs(load_settings({}))["uniref50_fasta"].metadata


def _specs(settings):
    assets = build_defs(settings).assets
    specs = [spec for each in assets for spec in (each.specs if hasattr(each, "specs") else [each])]
    return {spec.key.to_user_string(): spec for spec in specs}


def _code(spec: dg.AssetSpec):
    return CodeReferencesMetadataSet.extract(spec.metadata).code_references.code_references
