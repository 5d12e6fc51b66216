import logging
import re

import pytest

from download_setup import CONTENT, METALINK, PATH, checksum_of, list_in_metalink, quick
from esm_sae.errors import InputError
from esm_sae.sequences.download import download, what_is_at
from esm_sae.sequences.source import provide_source
from misbehaving_server import Fault, File, MisbehavingServer

SIGNED = "X-Amz-Date=20261123&X-Amz-Signature={}"


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """Return a function that writes the user's netrc file."""

    def write(text):
        path = tmp_path / "netrc"
        path.write_text(text)
        path.chmod(0o600)
        monkeypatch.setenv("NETRC", str(path))

    return write


def test_a_signature_is_sent_and_neither_recorded_nor_logged(server, tmp_path, pauses, caplog):
    caplog.set_level(logging.INFO)
    server.files[f"{PATH}?{SIGNED.format('s3cret')}"] = File(CONTENT)
    server.files[f"{PATH}?{SIGNED.format('0ther')}"] = File(CONTENT)
    checksum, target = checksum_of(CONTENT), tmp_path / "x.gz"

    def fetch(signature):
        url = f"{server.url()}?{SIGNED.format(signature)}"
        return download(url, target, checksum=checksum, retry=quick(sleep=pauses.append))

    server.fail(Fault(status=503))
    first = fetch("s3cret")
    # A signature is renewed; the file is the same.
    assert fetch("0ther").unchanged
    assert first.manifest.summary["url"].endswith("?X-Amz-Date=...&X-Amz-Signature=...")
    assert "HTTP Request: GET" in caplog.text
    target.unlink()
    server.always[f"{PATH}?{SIGNED.format('s3cret')}"] = Fault(status=403)
    with pytest.raises(InputError, match="answered 403") as raised:
        fetch("s3cret")
    for text in (first.manifest_path.read_text(), str(raised.value), caplog.text):
        assert not re.search("s3cret|0ther", text)


@pytest.mark.parametrize("status", [401, 403])
def test_a_signature_is_good_for_one_file_only(server, tmp_path, status):
    url = f"{server.url()}?{SIGNED.format('s3cret')}"
    server.files[f"{PATH}?{SIGNED.format('s3cret')}"] = File(CONTENT)
    server.always[METALINK] = Fault(status=status)
    assert what_is_at(url, retry=quick())["bytes"] == len(CONTENT)
    assert download(url, tmp_path / "x.gz", retry=quick()).manifest.summary["verified"] is False
    with pytest.raises(InputError, match=rf"{METALINK}: the server answered {status}"):
        download(url, tmp_path / "x.gz", metalink=server.url(METALINK), retry=quick())


def test_where_a_server_redirects_to_is_not_logged_with_its_signature(server, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    signed = f"/cdn/x?{SIGNED.format('s3cret')}"
    server.files[signed] = File(CONTENT)
    server.fail(Fault(status=302, headers={"Location": signed}))
    download(server.url(), tmp_path / "x.gz", checksum=checksum_of(CONTENT), retry=quick())
    assert "/cdn/x?" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_source_that_is_no_fasta_is_named_without_its_password(server, tmp_path):
    list_in_metalink(server, CONTENT)
    url = server.url().replace("//", "//someone:s3cret@")
    with pytest.raises(InputError, match="http://127") as raised:
        provide_source(url, tmp_path)
    assert not re.search("s3cret|someone", str(raised.value))


@pytest.mark.parametrize(
    "url",
    [
        "https://someone:s3/cret@host:port?token=s3cret",
        "https://someone:s3cret/x@host/x.gz",
        "https://someone:s3cret?x@host/x.gz",
        "https://someone:s3\ncret@host/x.gz",
        "someone:s3cret@host/x.gz",
    ],
)
def test_an_address_that_cannot_be_taken_apart_is_shown_without_its_password(tmp_path, url):
    with pytest.raises(InputError, match="URL") as raised:
        download(url, tmp_path / "x.gz")
    assert "cret" not in str(raised.value)


def test_a_proxy_that_cannot_be_taken_apart_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://someone:s3cret/x@proxy:1")
    with pytest.raises(InputError, match="the proxy named in the environment") as raised:
        download("http://example.org/x.gz", tmp_path / "x.gz", checksum=checksum_of(CONTENT))
    assert "cret" not in str(raised.value)


def test_a_password_of_the_netrc_file_is_sent_to_its_host_only(server, tmp_path, netrc, caplog):
    caplog.set_level(logging.INFO)
    netrc("machine 127.0.0.1 login someone password s3cret\n")
    other = MisbehavingServer()
    other.files[PATH] = File(CONTENT)
    server.fail(Fault(status=302, headers={"Location": other.url()}))
    try:
        product = download(
            server.url(), tmp_path / "x.gz", checksum=checksum_of(CONTENT), retry=quick()
        )
    finally:
        other.stop()
    assert [request.headers["authorization"] for request in server.requests] == [
        "Basic c29tZW9uZTpzM2NyZXQ="
    ]
    assert ["authorization" in request.headers for request in other.requests] == [False]
    assert "s3cret" not in caplog.text + product.manifest_path.read_text()


def test_the_default_entry_of_the_netrc_file_is_sent_to_nobody(server, tmp_path, netrc):
    netrc("machine elsewhere login a password b\ndefault login someone password s3cret\n")
    download(server.url(), tmp_path / "x.gz", checksum=checksum_of(CONTENT), retry=quick())
    assert all("authorization" not in request.headers for request in server.requests)


@pytest.mark.parametrize("text", ["s3cret\n", "machine h login\nlogin s3cret s3cret\n"])
def test_a_netrc_file_that_is_none_is_named_and_not_shown(tmp_path, netrc, text):
    netrc(text)
    with pytest.raises(InputError, match=r"netrc, line \d+: not of the form") as raised:
        download("http://127.0.0.1:9/x.gz", tmp_path / "x.gz")
    assert "s3cret" not in str(raised.value)


def test_a_netrc_file_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"nowhere: cannot be read"):
        download("http://127.0.0.1:9/x.gz", tmp_path / "x.gz")
