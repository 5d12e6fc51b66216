import stat

import pytest

from esm_sae.errors import InputError
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.demo import prepare_instance
from esm_sae_assets.external import place_of
from esm_sae_assets.settings import load_settings

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ESM_SAE_SOURCE", f"https://someone:{SECRET}@host/uniref50.fasta.gz"),
        ("ESM_SAE_SOURCE", f"https://host/uniref50.fasta.gz?X-Amz-Signature={SECRET}"),
        ("ESM_SAE_SOURCE_METALINK", f"https://{SECRET}@host/RELEASE.metalink"),
        ("ESM_SAE_DATA_ROOT", f"s3://KEY:{SECRET}@bucket/data"),
        ("ESM_SAE_DATA_ROOT", f"s3://KEY:wJalr/{SECRET}@bucket/data"),
        ("ESM_SAE_SOURCE", f"https://someone:wJalr/{SECRET}@host/uniref50.fasta.gz"),
        ("ESM_SAE_CLUSTERS_TAXONOMY", f"https://host/taxdump.tar.gz?token={SECRET}"),
        ("ESM_SAE_ANALYSIS_ANNOTATIONS", f"https://host/x.tsv?api_key={SECRET}"),
        ("ESM_SAE_SIMILARITY_CLUSTERS", f"ftp://someone:{SECRET}@host/x.parquet"),
    ],
)
def test_a_setting_holds_no_secret_and_the_refusal_shows_none(variable, value):
    with pytest.raises(
        InputError, match=r"holds a user name, a password or a token.*netrc"
    ) as raised:
        load_settings({variable: value})
    assert SECRET not in str(raised.value)


def test_another_error_of_a_section_shows_none():
    environment = {
        "ESM_SAE_CLUSTERS_SPECIES_LIST": "https://host/speclist.txt",
        "ESM_SAE_CLUSTERS_TAXONOMY_CHECKSUM": f"https://someone:{SECRET}@host",
        "ESM_SAE_SAE_KS": f"https://someone:{SECRET}@host",
    }
    for variables in (environment, {"ESM_SAE_SAE_KS": environment["ESM_SAE_SAE_KS"]}):
        with pytest.raises(InputError) as raised:
            load_settings(variables)
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/uniref50.fasta.gz",
        "https://rest.uniprot.org/uniref/stream?query=(identity:0.5)&format=fasta&compressed=true",
        "s3://bucket/uniref50.fasta.gz",
        "/data/with@sign:and&token=1.fasta",
    ],
)
def test_other_sources_are_let_through(source):
    assert load_settings({"ESM_SAE_SOURCE": source}).source == source


@pytest.mark.parametrize(
    "url",
    [
        "https://host/../../../etc/passwd",
        "https://host/x.tar/../../evil",
        "https://host/..%2f..%2fevil.tar.gz",
        "https://host/a.tar.gz/%2e%2e/x",
        "https://host/taxdump.b\\..\\c",
    ],
)
def test_a_download_has_the_name_of_its_asset_whatever_its_url_is(tmp_path, url):
    defs = build_defs(load_settings({"ESM_SAE_CLUSTERS_TAXONOMY": url}, data_root=str(tmp_path)))
    assert defs.resources is not None
    place = place_of(url, defs.resources["data"], "ncbi_taxonomy")
    assert str(place).startswith(str(tmp_path / "ncbi_taxonomy"))
    assert place.parent == tmp_path


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_file_of_variables_is_not_opened_to_others(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("DAGSTER_HOME", "")
    file = tmp_path / ".env"
    prepare_instance(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(f"DAGSTER_POSTGRES_PASSWORD={SECRET}\n")
    file.chmod(mode)
    prepare_instance(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_text().startswith(f"DAGSTER_POSTGRES_PASSWORD={SECRET}\nDAGSTER_HOME=")
