import hashlib
import logging

import pytest

from download_setup import (
    CONTENT,
    METALINK,
    OTHER,
    PATH,
    checksum_of,
    list_in_metalink,
    metalink3,
    names_in,
)
from esm_sae.errors import InputError
from misbehaving_server import LONG_AGO, Fault, File


def test_a_file_listed_in_the_metalink_arrives_verified(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT)
    product = fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]
    assert (product.path, product.unchanged) == (tmp_path / "x.gz", False)
    assert product.manifest.determinants == {
        "url": server.url(),
        "checksum": checksum_of(CONTENT),
    }
    assert product.manifest.summary == {
        "url": server.url(),
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "verified": True,
        "checksum": checksum_of(CONTENT),
        "checksum_from": server.url(METALINK),
        "release": "2026_05",
        "etag": '"one"',
        "last_modified": LONG_AGO,
    }
    (request,) = server.seen()
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


def test_without_a_metalink_the_file_comes_unverified_and_says_so(server, fetch, tmp_path, caplog):
    server.files[PATH] = File(CONTENT, release="2026_04")
    product = fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    summary = product.manifest.summary
    assert (summary["verified"], summary["checksum"], summary["checksum_from"]) == (
        False,
        None,
        None,
    )
    assert summary["release"] == "2026_04"
    assert product.manifest.determinants == {
        "url": server.url(),
        "etag": '"one"',
        "last_modified": LONG_AGO,
        "bytes": len(CONTENT),
    }
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "will not be verified" in warning


@pytest.mark.parametrize("status", [404, 410])
def test_a_metalink_that_is_gone_is_none(server, fetch, status):
    server.fail(Fault(status=status), path=METALINK)
    assert fetch().manifest.summary["verified"] is False


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_a_given_checksum_needs_no_metalink(server, fetch, algorithm):
    summary = fetch(checksum=checksum_of(CONTENT, algorithm)).manifest.summary
    assert summary["verified"] is True
    assert (summary["checksum_from"], summary["release"]) == ("given", None)
    assert server.seen(METALINK) == []


def test_with_a_given_checksum_a_metalink_only_names_the_release(server, fetch, tmp_path):
    path = tmp_path / "release.metalink"
    path.write_bytes(metalink3(OTHER, release="2026_06"))
    summary = fetch(checksum=checksum_of(CONTENT), metalink=path).manifest.summary
    assert (summary["checksum_from"], summary["release"]) == ("given", "2026_06")


@pytest.mark.parametrize("as_url", [True, False])
def test_the_metalink_may_be_elsewhere(server, fetch, tmp_path, as_url):
    path = tmp_path / "m.xml"
    path.write_bytes(metalink3(CONTENT))
    server.files["/elsewhere/m.xml"] = File(path.read_bytes())
    place = server.url("/elsewhere/m.xml") if as_url else path
    summary = fetch(metalink=place).manifest.summary
    assert (summary["verified"], summary["checksum_from"]) == (True, str(place))


def test_a_named_metalink_must_be_there(server, fetch, tmp_path):
    with pytest.raises(InputError, match=r"m\.xml: the server answered 404"):
        fetch(metalink=server.url("/m.xml"))
    with pytest.raises(InputError, match="none: no such file"):
        fetch(metalink=tmp_path / "none")


def test_an_empty_file_arrives(server, fetch, tmp_path):
    server.files[PATH] = File(b"")
    assert fetch(checksum=checksum_of(b"")).manifest.summary["bytes"] == 0
    assert (tmp_path / "x.gz").read_bytes() == b""


def test_redirects_are_followed(server, fetch, tmp_path):
    server.files["/mirror/y"] = File(CONTENT)
    server.fail(Fault(status=302, headers={"Location": "/mirror/y"}))
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_a_range_is_asked_for_through_a_redirect(server, fetch, tmp_path):
    server.files["/mirror/y"] = File(CONTENT)
    server.always[PATH] = Fault(status=302, headers={"Location": "/mirror/y"})
    server.fail(Fault(drop_after=60_000), path="/mirror/y")
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert server.seen("/mirror/y")[1].sent == len(CONTENT) - 60_000


@pytest.mark.parametrize("fault", [Fault(chunked=True), Fault(unframed=True)], ids=str)
def test_a_body_of_unknown_length_is_verified(server, fetch, tmp_path, fault):
    server.fail(fault)
    assert fetch(checksum=checksum_of(CONTENT)).manifest.summary["bytes"] == len(CONTENT)
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_an_unchanged_checksum_needs_no_download(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT)
    fetch()
    server.requests.clear()
    assert fetch().unchanged
    assert [request.path for request in server.requests] == [METALINK]
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


def test_an_unchanged_description_needs_no_download(server, fetch):
    big = File(CONTENT * 100)
    server.files[PATH] = big
    fetch()
    server.requests.clear()
    assert fetch().unchanged
    (look,) = server.seen()
    assert look.sent < len(big.content)


def test_a_new_release_is_downloaded_and_takes_the_place_of_the_old(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT)
    fetch()
    server.files[PATH] = File(OTHER, etag='"two"')
    list_in_metalink(server, OTHER, release="2026_06")
    product = fetch()
    assert not product.unchanged
    assert product.manifest.summary["release"] == "2026_06"
    assert (tmp_path / "x.gz").read_bytes() == OTHER


@pytest.mark.parametrize(
    "new",
    [
        File(OTHER, etag='"two"'),
        File(OTHER, last_modified="Tue, 06 Jan 2026 10:00:00 GMT"),
        File(OTHER[:-1]),
    ],
    ids=["etag", "time", "size"],
)
def test_a_new_description_is_downloaded(server, fetch, tmp_path, new):
    fetch()
    server.files[PATH] = new
    assert not fetch().unchanged
    assert (tmp_path / "x.gz").read_bytes() == new.content


def test_what_nothing_describes_is_downloaded_and_compared(server, fetch, tmp_path):
    server.files[PATH] = File(CONTENT, etag=None, last_modified=None)
    first = fetch()
    assert first.manifest.determinants == {
        "url": server.url(),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert fetch().unchanged
    server.files[PATH] = File(OTHER, etag=None, last_modified=None)
    assert not fetch().unchanged
    assert (tmp_path / "x.gz").read_bytes() == OTHER
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


def test_a_damaged_file_is_downloaded_again(server, fetch, tmp_path):
    fetch(checksum=checksum_of(CONTENT))
    (tmp_path / "x.gz").write_bytes(OTHER)
    assert not fetch(checksum=checksum_of(CONTENT)).unchanged
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
