import hashlib
import json
import os

import pytest

from esm_sae.data import bundled_fasta
from esm_sae.errors import InputError
from esm_sae.formats.manifest import identity_of, read_manifest
from esm_sae.sequences import SourceFile, provide_source, provided_source, read_fasta, sample_fasta


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fasta(write_fasta, random_proteins):
    return write_fasta(random_proteins(20), "own.fasta")


def test_the_bundled_proteins_are_copied(tmp_path):
    product = provide_source("bundled", tmp_path / "data")
    copy = tmp_path / "data" / "uniref50.fasta.gz"
    assert names_in(tmp_path / "data") == ["uniref50.fasta.gz", "uniref50.manifest.json"]
    assert copy.read_bytes() == bundled_fasta().read_bytes()
    assert product.manifest.summary["sha256"] == identity_of(copy)
    assert provided_source(tmp_path / "data") == SourceFile(str(copy), identity_of(copy))
    assert provide_source("bundled", tmp_path / "data").unchanged
    assert next(read_fasta(provided_source(tmp_path / "data").location)).sequence


def test_a_local_file_is_recorded_and_not_copied(tmp_path, fasta, monkeypatch):
    monkeypatch.chdir(tmp_path)
    product = provide_source("own.fasta", tmp_path / "data")
    assert names_in(tmp_path / "data") == ["uniref50.manifest.json", "uniref50.source.json"]
    assert provided_source(tmp_path / "data") == SourceFile(str(fasta), identity_of(fasta))
    assert product.manifest.summary == {
        "source": str(fasta),
        "bytes": fasta.stat().st_size,
        "sha256": identity_of(fasta),
    }
    assert provide_source(fasta, tmp_path / "data").unchanged


def test_a_file_of_another_content_has_another_fingerprint(
    tmp_path, fasta, write_fasta, random_proteins
):
    first = provide_source(fasta, tmp_path / "data")
    write_fasta(random_proteins(20, seed=1), "own.fasta")
    second = provide_source(fasta, tmp_path / "data")
    assert not second.unchanged
    assert second.manifest.fingerprint != first.manifest.fingerprint
    assert second.manifest.data_version != first.manifest.data_version


def test_a_url_is_recorded_and_read_by_the_next_step(tmp_path, fasta):
    import fsspec

    url = "memory://source/own.fasta"
    with fsspec.open(url, "wb") as file:
        file.write(fasta.read_bytes())
    provide_source(url, tmp_path / "data")
    source = provided_source(tmp_path / "data")
    assert source == SourceFile(url, identity_of(fasta))
    report = sample_fasta(source.location, tmp_path / "data" / "s.fasta", 5)
    assert report.sampled == 5
    assert provide_source(url, tmp_path / "data").unchanged


def test_the_last_source_provided_is_the_one_in_use(tmp_path, fasta):
    folder = tmp_path / "data"
    provide_source("bundled", folder)
    provide_source(fasta, folder)
    assert provided_source(folder).location == str(fasta)
    provide_source("bundled", folder)
    assert provided_source(folder).location == str(folder / "uniref50.fasta.gz")


def test_a_file_that_someone_put_there_is_not_replaced(tmp_path, write_fasta, random_proteins):
    own = write_fasta(random_proteins(3), "data/uniref50.fasta.gz")
    content = own.read_bytes()
    with pytest.raises(InputError, match="was not made here"):
        provide_source("bundled", tmp_path / "data")
    assert own.read_bytes() == content
    provide_source(own, tmp_path / "data")
    assert provided_source(tmp_path / "data").location == str(own)
    with pytest.raises(InputError, match="was not made here"):
        provide_source("bundled", tmp_path / "data")
    assert own.read_bytes() == content


def test_a_download_in_place_of_the_copy_is_kept(tmp_path, write_fasta, random_proteins):
    folder = tmp_path / "data"
    provide_source("bundled", folder)
    own = write_fasta(random_proteins(3), "data/uniref50.fasta.gz")
    content = own.read_bytes()
    with pytest.raises(InputError, match="was not made here"):
        provide_source("bundled", folder)
    provide_source(own, folder)
    assert provided_source(folder).location == str(own)
    assert own.read_bytes() == content


def test_the_copy_itself_is_no_external_source(tmp_path):
    copy = provide_source("bundled", tmp_path / "data").path
    with pytest.raises(InputError, match="set the source 'bundled'"):
        provide_source(copy, tmp_path / "data")
    assert copy.is_file()


def test_a_copy_whose_manifest_was_lost_is_made_known_again(tmp_path):
    product = provide_source("bundled", tmp_path / "data")
    (tmp_path / "data" / "uniref50.manifest.json").unlink()
    assert provide_source("bundled", tmp_path / "data").manifest == product.manifest


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"MK\n", "does not start with '>'"), (b"\x1f\x8b\x08", "truncated")],
)
def test_a_source_that_is_no_fasta_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.fasta"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.fasta.*{message}"):
        provide_source(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_source_that_is_missing_or_a_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        provide_source(tmp_path / "missing.fasta", tmp_path / "data")
    with pytest.raises(InputError, match="no such file"):
        provide_source("memory://missing/x.fasta", tmp_path / "data")
    with pytest.raises(InputError, match="is a directory"):
        provide_source(tmp_path, tmp_path / "data")
    assert read_manifest(tmp_path / "data") is None


def test_a_folder_without_a_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="no source of sequences was provided here"):
        provided_source(tmp_path)


@pytest.mark.parametrize("age", ["newer", "older"])
def test_a_local_source_of_another_size_is_refused(
    tmp_path, fasta, write_fasta, random_proteins, age
):
    provide_source(fasta, tmp_path / "data")
    write_fasta(random_proteins(21), "own.fasta")
    if age == "older":
        # As a copy that keeps its time, or an unpacked archive.
        os.utime(fasta, (10**9, 10**9))
    with pytest.raises(InputError, match="changed since it was made known"):
        provided_source(tmp_path / "data")


METALINK = (
    '<metalink version="3.0" xmlns="http://www.metalinker.org/"><version>2026_05</version><files>'
    '<file name="uniref50.fasta.gz"><verification><hash type="md5">{}</hash></verification></file>'
    "</files></metalink>"
)


def test_a_url_is_downloaded_and_its_release_is_the_data_version(
    tmp_path, serve, write_fasta, random_proteins
):
    served, address = serve
    folder = tmp_path / "data"
    content = write_fasta(random_proteins(20), "served/uniref50.fasta.gz").read_bytes()
    (served / "RELEASE.metalink").write_text(METALINK.format(hashlib.md5(content).hexdigest()))
    provide_source("bundled", folder)
    product = provide_source(f"{address}/uniref50.fasta.gz", folder)
    assert product.path.read_bytes() == content
    assert product.manifest.data_version.startswith("2026_05-")
    assert product.manifest.summary["verified"]
    source = provided_source(folder)
    assert source == SourceFile(str(product.path), hashlib.sha256(content).hexdigest())
    assert provide_source(f"{address}/uniref50.fasta.gz", folder).unchanged
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "data")
    moved = provided_source(tmp_path / "moved" / "data")
    assert sample_fasta(moved.location, tmp_path / "s.fasta", 5, sha256=moved.sha256).sampled == 5


def test_a_download_does_not_replace_a_file_that_someone_put_there(
    tmp_path, serve, write_fasta, random_proteins
):
    _, address = serve
    write_fasta(random_proteins(20), "served/x.fasta.gz")
    own = write_fasta(random_proteins(3), "data/uniref50.fasta.gz")
    content = own.read_bytes()
    with pytest.raises(InputError, match="in the way of the download"):
        provide_source(f"{address}/x.fasta.gz", tmp_path / "data")
    assert own.read_bytes() == content
    assert provide_source(f"{address}/x.fasta.gz", tmp_path / "other").path.is_file()
    with pytest.raises(InputError, match="in the way of the bundled proteins and is a download"):
        provide_source("bundled", tmp_path / "other")


@pytest.mark.parametrize("before", ["nothing", "bundled", "download"])
def test_a_download_that_is_no_fasta_takes_no_ones_place(
    tmp_path, serve, write_fasta, random_proteins, before
):
    served, address = serve
    folder = tmp_path / "data"
    write_fasta(random_proteins(20), "served/good.fasta.gz")
    (served / "bad.fasta.gz").write_text("no fasta")
    if before != "nothing":
        provide_source("bundled" if before == "bundled" else f"{address}/good.fasta.gz", folder)
        source = provided_source(folder)
    url = f"{address}/bad.fasta.gz"
    with pytest.raises(InputError, match="does not start with '>'") as caught:
        provide_source(url, folder)
    assert str(caught.value).startswith(url)
    if before == "nothing":
        with pytest.raises(InputError, match="no source of sequences"):
            provided_source(folder)
    else:
        assert provided_source(folder) == source
        assert identity_of(source.location) == source.sha256
    assert not [name for name in names_in(folder) if "download" in name]


def test_an_edited_local_source_of_the_same_size_is_refused(tmp_path, fasta):
    provide_source(fasta, tmp_path / "data")
    content = fasta.read_bytes()
    fasta.write_bytes(content)
    assert provided_source(tmp_path / "data").sha256 == identity_of(fasta)
    fasta.write_bytes(content.replace(b"Protein", b"protein"))
    with pytest.raises(InputError, match="changed since it was made known"):
        provided_source(tmp_path / "data")
    fasta.unlink()
    with pytest.raises(InputError, match="no such file any more"):
        provided_source(tmp_path / "data")


def test_a_sample_is_not_the_source_of_the_samples_beside_it(tmp_path, fasta):
    folder = tmp_path / "data"
    sample_fasta(fasta, folder / "s.fasta", 5)
    with pytest.raises(InputError, match="is a sample drawn here"):
        provide_source(folder / "s.fasta", folder)
    assert provide_source(folder / "s.fasta", tmp_path / "other").path.is_file()


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "null",
        '{"path": 5, "bytes": 1, "sha256": ""}',
        '{"path": "x", "sha256": ""}',
        '{"path": "x", "bytes": "1", "sha256": ""}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, fasta, content):
    provide_source(fasta, tmp_path / "data")
    (tmp_path / "data" / "uniref50.source.json").write_text(content)
    with pytest.raises(InputError, match="not the record of a source"):
        provided_source(tmp_path / "data")


def test_a_manifest_that_names_no_source_is_named(tmp_path):
    folder = tmp_path / "data"
    path = provide_source("bundled", folder).manifest_path
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"files": {}}))
    with pytest.raises(InputError, match=r"uniref50\.manifest\.json: names no source"):
        provided_source(folder)
    content["files"]["uniref50.fasta.gz"]["bytes"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"uniref50\.manifest\.json: not a manifest"):
        provided_source(folder)
