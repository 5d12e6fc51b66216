import logging

import pytest

from download_setup import CONTENT, PATH, checksum_of, list_in_metalink, metalink3, names_in, quick
from esm_sae.errors import InputError
from esm_sae.sequences.download import download
from misbehaving_server import Fault, File, MisbehavingServer


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ftp.uniprot.org/x.gz",
        "file:///etc/passwd",
        "x.gz",
        "http://",
        "http:///x.gz",
        "https://host:port/x.gz",
        "",
    ],
)
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(InputError, match="URL"):
        download(url, tmp_path / "x.gz")


def test_a_host_name_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a host that can be asked"):
        download("http://a..b/x.gz", tmp_path / "x.gz", checksum=checksum_of(CONTENT))


@pytest.mark.parametrize("proxy", ["socks4://proxy:1", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_named(tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(InputError, match="the proxy named in the environment"):
        download("http://example.org/x.gz", tmp_path / "x.gz", checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "checksum", ["", "md5", "md5:", "md5:12", "crc32:00000000", f"sha256:{'g' * 64}", "0" * 32]
)
def test_a_checksum_must_be_one(server, fetch, checksum):
    with pytest.raises(InputError, match="expected one of sha512, sha256, sha1, md5"):
        fetch(checksum=checksum)
    assert server.requests == []


def test_credentials_are_used_and_never_shown(server, tmp_path, pauses, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    list_in_metalink(server, CONTENT)
    server.fail(Fault(status=503))
    url = server.url().replace("//", "//someone:s%40cret@")
    product = download(url, tmp_path / "x.gz", retry=quick(sleep=pauses.append))
    expected = "Basic c29tZW9uZTpzQGNyZXQ="
    assert {request.headers["authorization"] for request in server.requests} == {expected}
    server.always[PATH] = Fault(status=403)
    (tmp_path / "x.gz").unlink()
    with pytest.raises(InputError) as raised:
        download(url, tmp_path / "x.gz", retry=quick(sleep=pauses.append))
    shown = [
        product.manifest_path.read_text(),
        str(raised.value),
        caplog.text,
        *capsys.readouterr(),
    ]
    assert not any("cret" in text or "someone" in text for text in shown)
    with pytest.raises(InputError) as raised:
        download("http://someone:s3cret@host:port/x", tmp_path / "x.gz")
    assert "cret" not in str(raised.value)


def test_credentials_do_not_go_to_another_server(server, tmp_path, pauses):
    other = MisbehavingServer()
    other.files[PATH] = File(CONTENT)
    other.files["/m"] = File(metalink3(CONTENT))
    server.fail(Fault(status=302, headers={"Location": other.url()}))
    url = server.url().replace("//", "//someone:secret@")
    try:
        download(url, tmp_path / "x.gz", metalink=other.url("/m"))
    finally:
        other.stop()
    assert "authorization" in server.requests[0].headers
    assert all("authorization" not in request.headers for request in other.requests)
