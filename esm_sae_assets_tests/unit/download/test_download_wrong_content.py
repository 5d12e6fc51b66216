import gzip

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
from esm_sae.sequences.metalink import LARGEST_METALINK
from misbehaving_server import Fault, File

DTD_BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE metalink [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<metalink version="3.0" xmlns="http://www.metalinker.org/"><version>&b;</version></metalink>"""


def test_another_content_than_given_names_both_hashes(server, fetch, tmp_path):
    (tmp_path / "x.gz").write_bytes(b"old")
    with pytest.raises(InputError) as raised:
        fetch(checksum=checksum_of(OTHER))
    for part in (server.url(), checksum_of(CONTENT), checksum_of(OTHER), "check the checksum"):
        assert part in str(raised.value)
    assert (tmp_path / "x.gz").read_bytes() == b"old"
    assert names_in(tmp_path) == ["x.gz"]
    assert len(server.seen()) == 1


@pytest.mark.parametrize("size", [True, False])
def test_another_content_than_listed_is_an_error_after_a_second_look(server, fetch, tmp_path, size):
    list_in_metalink(server, OTHER, size=size)
    with pytest.raises(InputError) as raised:
        fetch()
    for part in (checksum_of(CONTENT), checksum_of(OTHER), server.url(METALINK), "try again"):
        assert part in str(raised.value)
    assert len(server.seen(METALINK)) == 2
    assert names_in(tmp_path) == []


def test_another_size_than_listed_is_an_error_before_the_bytes_come(server, fetch, tmp_path):
    list_in_metalink(server, OTHER + b"more")
    with pytest.raises(InputError, match=r"sends 200,000 bytes, the file has 200,004 according"):
        fetch()
    assert names_in(tmp_path) == []
    assert len(server.seen(METALINK)) == 2


def test_more_bytes_than_listed_are_an_error(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT[:-1])
    server.always[PATH] = Fault(chunked=True)
    with pytest.raises(InputError, match=r"sends more than the 199,999 bytes"):
        fetch()
    assert names_in(tmp_path) == []


def test_a_release_that_came_in_between_is_recognised_by_its_bytes(server, fetch, tmp_path):
    server.files[METALINK] = File(metalink3(CONTENT, release="2026_06"))
    server.fail(Fault(file=File(metalink3(OTHER))), path=METALINK)
    product = fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert product.manifest.summary["release"] == "2026_06"
    assert len(server.seen()) == 1


def test_a_release_that_came_in_between_is_fetched(server, fetch, tmp_path):
    """The old metalink, then a third file, then the new metalink and the new file."""
    server.files[METALINK] = File(metalink3(CONTENT, release="2026_06"))
    server.fail(Fault(file=File(metalink3(OTHER))), path=METALINK)
    server.fail(Fault(file=File(bytes(len(CONTENT)), etag='"three"')))
    assert fetch().manifest.summary["release"] == "2026_06"
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_another_content_than_the_new_release_has_is_an_error(server, fetch, tmp_path):
    list_in_metalink(server, OTHER)
    server.fail(Fault(file=File(metalink3(OTHER[:-1] + b"."))), path=METALINK)
    with pytest.raises(InputError, match=rf"{checksum_of(OTHER)} is expected"):
        fetch()
    assert len(server.seen(METALINK)) == 2
    assert names_in(tmp_path) == []


def test_a_metalink_that_goes_away_does_not_switch_the_verification_off(server, fetch, tmp_path):
    server.fail(Fault(file=File(metalink3(OTHER))), path=METALINK)
    with pytest.raises(InputError, match="is expected according to"):
        fetch()
    assert names_in(tmp_path) == []


def test_a_file_that_changes_after_it_was_looked_up_is_looked_up_again(server, fetch, tmp_path):
    server.fail(Fault(file=File(OTHER, etag='"two"')))
    product = fetch()
    assert product.manifest.determinants["etag"] == '"one"'
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_a_file_that_changes_with_every_request_is_refused(server, fetch, tmp_path):
    server.fail(*(Fault(file=File(CONTENT, etag=f'"{n}"')) for n in range(9)))
    with pytest.raises(InputError, match="describes it otherwise from one request to the next"):
        fetch()
    assert names_in(tmp_path) == []


def test_a_web_page_is_no_file_unless_its_checksum_is_known(server, fetch, tmp_path):
    page = b"<html>Please log in</html>"
    server.files[PATH] = File(page, content_type="text/html; charset=utf-8")
    with pytest.raises(InputError, match=rf"{PATH}: the server sent a web page"):
        fetch()
    assert names_in(tmp_path) == []
    fetch(checksum=checksum_of(page))
    assert (tmp_path / "x.gz").read_bytes() == page


def test_an_encoded_range_is_refused(server, fetch, tmp_path):
    server.fail(Fault(drop_after=60_000), Fault(encoding="br"))
    with pytest.raises(InputError, match=rf"{PATH}: sent with Content-Encoding 'br'"):
        fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / ".x.gz.download").stat().st_size == 60_000


def test_chunks_count_for_more_than_a_length(server, fetch, tmp_path):
    server.always[PATH] = Fault(chunked=True, headers={"Content-Length": "5"})
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [None, checksum_of(CONTENT)])
def test_an_encoded_body_is_refused(server, fetch, tmp_path, checksum):
    server.always[PATH] = Fault(file=File(gzip.compress(CONTENT)), encoding="gzip")
    with pytest.raises(InputError, match=rf"{PATH}: sent with Content-Encoding 'gzip'"):
        fetch(checksum=checksum)
    assert names_in(tmp_path) == []


def test_a_body_with_no_end_in_sight_is_refused_without_a_checksum(server, fetch, tmp_path):
    server.always[PATH] = Fault(unframed=True)
    with pytest.raises(InputError, match="does not tell where the file ends"):
        fetch()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DTD_BOMB, "has a document type"),
        (b"<html>log in</html>", "not a metalink file, its root element is html"),
        (metalink3(CONTENT)[:-20], "malformed"),
        (b"", "malformed"),
        (metalink3(CONTENT, name="y.gz"), r"lists no file x\.gz"),
        (metalink3(CONTENT, crc32="00"), r"lists no file x\.gz with a hash"),
        (metalink3(CONTENT, md5="00"), "'00' is no md5 hash"),
        (b" " * (2**24 + 1), "has more than"),
    ],
    ids=["dtd", "html", "cut", "empty", "unlisted", "unknown_hash", "bad_hash", "huge"],
)
def test_a_metalink_that_cannot_be_used_is_an_error(server, fetch, tmp_path, content, message):
    server.files[METALINK] = File(content)
    with pytest.raises(InputError, match=rf"RELEASE\.metalink: .*{message}"):
        fetch()
    assert server.seen() == []
    assert names_in(tmp_path) == []


def test_no_more_of_a_metalink_is_read_than_is_accepted(server, fetch):
    server.files[METALINK] = File(bytes(4 * LARGEST_METALINK))
    with pytest.raises(InputError, match="has more than"):
        fetch()
    assert server.seen(METALINK)[0].sent < 3 * LARGEST_METALINK


def test_an_encoded_metalink_is_refused(server, fetch):
    server.fail(Fault(file=File(b""), encoding="gzip"), path=METALINK)
    with pytest.raises(InputError, match=r"RELEASE\.metalink: sent with Content-Encoding"):
        fetch()


def test_a_cut_metalink_is_fetched_again(server, fetch):
    list_in_metalink(server, CONTENT)
    server.fail(Fault(drop_after=100), path=METALINK)
    assert fetch().manifest.summary["verified"]
