"""The data root: names of outputs, a folder or on object storage, and what may not be named."""

import hashlib
import uuid
from pathlib import Path, PurePosixPath

import pytest

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Manifest, encode_manifest, manifest_beside, read_manifest
from esm_sae.remote.store import ObjectStore, object_name
from esm_sae_assets.external import place_of
from esm_sae_assets.resources import DataRoot, data_root
from esm_sae_assets.settings import load_settings


@pytest.fixture
def local(tmp_path):
    return DataRoot(root=str(tmp_path), latent_dim=8)


@pytest.fixture
def remote(tmp_path):
    url = f"memory://bucket/{uuid.uuid4().hex}"
    return DataRoot(root=url, latent_dim=8, cache=str(tmp_path / "cache"))


def test_names_are_the_same_in_a_folder_and_on_object_storage(local, remote, tmp_path):
    for data in (local, remote):
        names = [
            *(data.path(), data.path("comparison"), data.sample("x"), data.shards, data.sae(4)),
            *(data.shard_folder("0000-of-0002"), data.shard_tables(2), data.source),
            *(data.sae(4, "replicate"), data.metrics(4), data.analysis(4, "report.html")),
            *(
                data.release(4),
                data.cluster_statistics,
                data.embedded_clusters,
                data.file("taxonomy"),
            ),
        ]
        assert [path.relative_to(data.path()).as_posix() for path in names] == [
            *(".", "comparison", "x.fasta", "embeddings3", "L8_k4"),
            *("embeddings3", "embeddings3", "."),
            *("L8_k4_replicate", "L8_k4/metrics", "analysis/L8_k4/report.html"),
            *("release/L8_k4", "cluster_statistics.json", "embedded_clusters.json", "taxonomy"),
        ]
    assert local.path() == tmp_path
    assert remote.path().is_relative_to(tmp_path / "cache/memory/bucket")
    assert (local.is_local, remote.is_local) == (True, False)


@pytest.mark.parametrize(
    "parts", [("..",), ("a", "../../b"), ("/etc/passwd",), ("a", "/etc"), ("a\0b",)]
)
def test_no_name_leaves_the_data_root(local, remote, parts):
    for data in (local, remote):
        with pytest.raises(InputError, match="leaves the data root"):
            data.path(*parts)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/../../etc/taxdump.tar.gz",
        "https://example.org/%2e%2e%2f%2e%2e%2fetc.tar.gz",
        "https://example.org/a.tar/..",
        "https://example.org/a..%2f..%2fb.gz",
        "https://example.org/x.tar.gz?name=../../y",
        "https://example.org/..",
        "https://example.org",
    ],
)
def test_no_url_names_a_file_outside_of_the_data_root(local, url, tmp_path):
    place = place_of(url, local, "taxonomy")
    assert Path(str(place)).resolve().parent == tmp_path
    assert Path(str(place)).name.startswith("taxonomy")


def test_local_copies_are_in_the_users_cache_unless_the_settings_name_a_folder(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    url = f"memory://bucket/{uuid.uuid4().hex}"
    chosen = DataRoot(root=url, latent_dim=8)
    assert chosen.path().is_relative_to(tmp_path / "xdg/esm_sae/memory/bucket")


def test_a_url_may_not_lead_out_of_the_cache(tmp_path):
    data = DataRoot(root="memory://bucket/../../x", latent_dim=8, cache=str(tmp_path))
    with pytest.raises(InputError, match="leaves the data root"):
        data.path()


def test_a_record_in_the_store_brings_no_file_out_of_the_cache(remote, tmp_path):
    evil, record = "../../../outside/evil", "uniref50.source.json"
    known = {"path": evil, "bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    for name, content, manifest in (
        (evil, b"evil", f"{evil}.manifest.json"),
        (record, storage.encode_json(known), "uniref50.manifest.json"),
    ):
        write_output(ObjectStore(remote.root), name, content, manifest)
    with pytest.raises(InputError, match="evil: leaves the data root"):
        _ = remote.source
    assert list(tmp_path.rglob("evil*")) == []


def test_of_what_the_rows_were_made_from_the_manifests_alone_are_read(local, remote, tmp_path):
    store = ObjectStore(remote.root)
    source = ("uniref50.fasta", b">A", "uniref50.manifest.json")
    write_output(store, *source)
    write_output(store, "x.fasta", b">A", "x.fasta.manifest.json")
    (found,) = remote.manifests(source[2])
    assert found.files["uniref50.fasta"]["bytes"] == 2
    assert len(remote.rows_made_from(["x", "y"], 4)) == 2
    assert not list(tmp_path.rglob("*.fasta"))
    for name in (
        source[2],
        "embeddings3/manifest.json",
        "embeddings3/embeddings_0000-of-0004.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_manifest(found))
    assert local.rows_made_from(["x"], 4) == [found] * 3


def test_of_an_analysis_that_a_card_counts_no_table_is_brought(local, remote, tmp_path):
    store, folder = ObjectStore(remote.root), "analysis/L8_k4"
    summary = f"{folder}/feature_summary.parquet"
    write_output(
        store,
        f"{folder}/activations/proteins.parquet",
        b"many",
        f"{folder}/activations/manifest.json",
    )
    write_output(store, summary, b"more", f"{summary}.manifest.json")
    brought = remote.summarised(4)
    assert read_manifest(brought / "activations").files.keys() == {"proteins.parquet"}
    assert read_manifest(manifest_beside(brought / "feature_summary.parquet")) is not None
    assert not list(tmp_path.rglob("*.parquet"))
    assert (remote.analysis(4, "activations") / "proteins.parquet").read_bytes() == b"many"
    assert local.summarised(4) == tmp_path / folder


def write_output(store, name, content, manifest):
    sha256 = hashlib.sha256(content).hexdigest()
    files = {PurePosixPath(name).name: {"sha256": sha256, "bytes": len(content)}}
    store.write(object_name(name, sha256), content)
    store.write(manifest, encode_manifest(Manifest("source", "0" * 64, {}, files, {})))


def test_settings_name_a_folder_or_a_url(tmp_path):
    for given, location in (
        (str(tmp_path), str(tmp_path)),
        (tmp_path.as_uri(), str(tmp_path)),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ):
        settings = load_settings({"ESM_SAE_DATA_ROOT": given})
        assert settings.location == location
        assert data_root(settings).root == location


def test_the_bound_comes_from_the_environment():
    settings = load_settings({"ESM_SAE_CACHE": "/fast/disk", "ESM_SAE_CACHE_SIZE_GB": "12.5"})
    data = data_root(settings)
    assert (data.cache, data.cache_size_gb) == ("/fast/disk", 12.5)


def test_trackers_write_to_this_machine_wherever_outputs_are(tmp_path):
    root = {"ESM_SAE_DATA_ROOT": str(tmp_path)}
    assert data_root(load_settings(root)).tracking == tmp_path / "tracking"
    chosen = root | {"ESM_SAE_TRACKING_DIR": "/shared"}
    assert data_root(load_settings(chosen)).tracking == Path("/shared")
    remote = {"ESM_SAE_DATA_ROOT": "s3://bucket/prefix", "ESM_SAE_CACHE": str(tmp_path)}
    expected = tmp_path / "tracking" / "s3" / "bucket" / "prefix"
    assert data_root(load_settings(remote)).tracking == expected


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_bound_that_is_no_size_is_refused(value):
    with pytest.raises(InputError, match="cache_size_gb"):
        load_settings({"ESM_SAE_CACHE_SIZE_GB": value})


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/data",
        "ftp://example.org/data",
        "s3://",
        "s3:///x",
        "s3://b/x[1]",
    ],
)
def test_a_url_that_no_output_can_be_written_to_is_refused(url):
    with pytest.raises(InputError, match="data_root"):
        load_settings({"ESM_SAE_DATA_ROOT": url})


def test_credentials_in_the_url_are_refused_and_not_repeated():
    with pytest.raises(InputError) as raised:
        load_settings({"ESM_SAE_DATA_ROOT": "s3://AKIA:hunter2@bucket/prefix"})
    assert "hunter2" not in str(raised.value)
