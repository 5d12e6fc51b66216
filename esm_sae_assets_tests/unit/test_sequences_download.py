import email.utils
import errno
import functools
import gzip
import hashlib
import importlib.util
import json
import logging
import os
import resource
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.formats.manifest import read_manifest
from esm_sae.sequences import part_file
from esm_sae.sequences.download import download
from esm_sae.sequences.http import RetryPolicy
from esm_sae.sequences.metalink import LARGEST_METALINK

SERVER = Path(__file__).with_name("misbehaving_server.py")
KILLS = Path(__file__).with_name("crash_download_at_every_step.py")

PATH = "/rel/x.gz"
METALINK = "/rel/RELEASE.metalink"
CONTENT = hashlib.shake_256(b"content").digest(200_000)
OTHER = hashlib.shake_256(b"other").digest(200_000)
DTD_BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE metalink [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<metalink version="3.0" xmlns="http://www.metalinker.org/"><version>&b;</version></metalink>"""


def _load_server():
    spec = importlib.util.spec_from_file_location("misbehaving_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


misbehaving = _load_server()
File, Fault = misbehaving.File, misbehaving.Fault


@pytest.fixture(scope="module", autouse=True)
def _plain_client():
    """Ask the server directly; and read the system's certificates, which takes long, once."""
    client = functools.partial(httpx.Client, verify=ssl.create_default_context())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr(httpx, "Client", client)
        yield


@pytest.fixture(scope="module")
def running():
    server = misbehaving.MisbehavingServer()
    yield server
    server.stop()


@pytest.fixture
def server(running):
    running.reset()
    running.files[PATH] = File(CONTENT)
    return running


@pytest.fixture
def pauses():
    """The seconds that were waited for, none of which really passed."""
    return []


@pytest.fixture
def fetch(server, tmp_path, pauses):
    """A function that downloads the file to ``x.gz`` of the test's folder, without waiting."""

    def run(**options):
        options = {"retry": quick(sleep=pauses.append)} | options
        return download(server.url(), tmp_path / "x.gz", **options)

    return run


def quick(**options):
    return RetryPolicy(**{"failures": 4, "requests": 30, "read_timeout": 5.0} | options)


def checksum_of(content, algorithm="md5"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def metalink3(content, name="x.gz", release="2026_05", size=True, **hashes):
    hashes = hashes or {"md5": hashlib.md5(content).hexdigest()}
    listed = "".join(f'<hash type="{type}">{hash}</hash>' for type, hash in hashes.items())
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="static">
  <identity>UniRef50</identity>
  <version>{release}</version>
  <files>
    <file name="other.gz"><size>1</size>
      <verification><hash type="md5">{"0" * 32}</hash></verification></file>
    <file name="{name}">{f"<size>{len(content)}</size>" if size else ""}
      <verification>{listed}<pieces length="1" type="md5"><hash piece="0">1</hash></pieces>
      </verification>
      <resources><url type="https">https://example.org/x.gz</url></resources>
    </file>
  </files>
</metalink>""".encode()


def list_in_metalink(server, content, **options):
    server.files[METALINK] = File(metalink3(content, **options))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def ranges(server):
    return [request.headers.get("range") for request in server.seen()]


# A download that goes well


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
        "last_modified": misbehaving.LONG_AGO,
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
        "last_modified": misbehaving.LONG_AGO,
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


# Running it again


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


# Broken transfers


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_broken_connection_is_resumed_where_it_broke(
    server, fetch, tmp_path, pauses, verified, chunked
):
    if verified:
        list_in_metalink(server, CONTENT)
    else:
        server.fail(Fault())
    drops = (60_000, 1, 70_000)
    server.fail(*(Fault(drop_after=drop, chunked=chunked and verified) for drop in drops))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    transfers = server.seen()[0 if verified else 1 :]
    assert [request.headers.get("range") for request in transfers] == [
        None,
        "bytes=60000-",
        "bytes=60001-",
        "bytes=130001-",
    ]
    assert {request.headers.get("if-range") for request in transfers[1:]} == {'"one"'}
    assert sum(request.sent for request in transfers) == len(CONTENT)
    # Each brought something new, so that the pause does not grow.
    assert pauses == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("file", "condition"),
    [
        (File(CONTENT, etag='W/"weak"'), misbehaving.LONG_AGO),
        (File(CONTENT, etag=None), misbehaving.LONG_AGO),
        (File(CONTENT, last_modified=None), '"one"'),
        (File(CONTENT, etag='"öne"'), misbehaving.LONG_AGO),
        (File(CONTENT, etag=None, last_modified=None), None),
    ],
    ids=["weak", "time", "etag", "not_ascii", "none"],
)
def test_the_strongest_validator_guards_the_range(server, fetch, tmp_path, file, condition):
    server.files[PATH] = file
    server.fail(Fault(drop_after=60_000))
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert [
        (request.headers.get("range"), request.headers.get("if-range")) for request in server.seen()
    ] == [(None, None), ("bytes=60000-", condition)]


def test_with_neither_validator_nor_checksum_nothing_is_resumed(server, fetch, tmp_path):
    server.files[PATH] = File(CONTENT, etag=None, last_modified=None)
    server.fail(Fault(), Fault(drop_after=60_000))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server) == [None, None, None]


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=100),
        Fault(total="*"),
        Fault(total=len(CONTENT) + 1),
        Fault(total=len(CONTENT) - 1),
        Fault(status=416),
        Fault(validators=False),
        Fault(file=File(OTHER, etag='"two"'), ignore_if_range=True),
        Fault(file=File(OTHER[:-7]), ignore_if_range=True),
        Fault(file=File(CONTENT, last_modified="Tue, 06 Jan 2026 10:00:00 GMT")),
        Fault(headers={"Content-Range": "bytes"}),
    ],
    ids=str,
)
def test_a_range_that_does_not_fit_the_part_is_not_believed(
    server, fetch, tmp_path, fault, verified
):
    if verified:
        list_in_metalink(server, CONTENT)
    else:
        server.fail(Fault())
    server.fail(Fault(drop_after=60_000), fault)
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server)[-3:] == [None, "bytes=60000-", None]


def test_a_whole_file_in_place_of_a_range_is_taken(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT)
    server.fail(Fault(drop_after=60_000), Fault(ignore_range=True))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=60000-"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=100, lie=True, truncate_to=100),
        Fault(file=File(OTHER)),
        Fault(file=File(OTHER, etag=None, last_modified=None), ignore_if_range=True),
    ],
    ids=["shifted", "same_validators", "none"],
)
def test_a_mixture_is_found_out_and_fetched_afresh_once(server, fetch, tmp_path, caplog, fault):
    server.files[PATH] = File(CONTENT, *((None, None) if fault.ignore_if_range else ()))
    server.fail(Fault(drop_after=60_000), fault)
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server)[-1] is None
    assert "fetching it afresh" in caplog.text


def test_a_new_file_on_resume_is_fetched_whole_and_then_checked(server, fetch, tmp_path):
    server.fail(Fault(drop_after=60_000), Fault(file=File(OTHER, etag='"two"')))
    with pytest.raises(InputError, match=rf"has the checksum {checksum_of(OTHER)}"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []
    assert len(server.seen()) == 2
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server)[2:] == [None]


def test_a_new_file_on_resume_is_taken_whole_without_a_checksum(server, fetch, tmp_path):
    server.fail(Fault(), Fault(drop_after=60_000))
    new = File(OTHER, etag='"two"')
    server.fail(*[Fault(file=new)] * 3)
    assert fetch().manifest.determinants["etag"] == new.etag
    assert (tmp_path / "x.gz").read_bytes() == OTHER


def test_a_mixture_twice_is_an_error(server, fetch, tmp_path):
    server.fail(*[Fault(drop_after=60_000), Fault(file=File(OTHER))] * 2)
    with pytest.raises(InputError, match=rf"{checksum_of(CONTENT)} is expected"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(truncate_to=150_000),
        Fault(truncate_to=150_000, unframed=True),
        Fault(truncate_to=150_000, chunked=True),
        Fault(drop_after=150_000, chunked=True),
        Fault(drop_after=0),
        Fault(drop_after=150_000, reset=True),
        Fault(file=File(CONTENT + OTHER)),
        Fault(status=503),
        Fault(status=500),
        Fault(status=408),
        Fault(status=429),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(server, fetch, tmp_path, pauses, fault):
    list_in_metalink(server, CONTENT)
    server.fail(fault)
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert pauses == [1.0]


def test_a_stalled_body_times_out_and_is_resumed(server, fetch, tmp_path, pauses):
    server.fail(Fault(stall=True))
    fetch(checksum=checksum_of(CONTENT), retry=quick(read_timeout=0.1, sleep=pauses.append))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_that_is_down_ends_in_an_error(server, tmp_path, pauses):
    closed = misbehaving.MisbehavingServer()
    closed.stop()
    with pytest.raises(InputError, match=r"RELEASE\.metalink: ConnectError .* 4 failed attempts"):
        download(closed.url(), tmp_path / "x.gz", retry=quick(sleep=pauses.append))
    assert pauses == [1.0, 2.0, 4.0]
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("path", [PATH, METALINK])
def test_an_error_of_the_server_that_stays_is_the_end(server, fetch, tmp_path, pauses, path):
    """Also for the metalink: a mirror that is down does not switch the verification off."""
    list_in_metalink(server, CONTENT)
    server.always[path] = Fault(status=500)
    with pytest.raises(InputError, match=rf"{path}: the server answered 500 .* try again later"):
        fetch()
    assert len(server.seen(path)) == 4
    assert pauses == [1.0, 2.0, 4.0]
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("path", [PATH, METALINK])
@pytest.mark.parametrize("status", [400, 401, 403, 451, 204, 304])
def test_a_refusal_is_the_end_at_once(server, fetch, pauses, path, status):
    list_in_metalink(server, CONTENT)
    server.always[path] = Fault(status=status)
    with pytest.raises(InputError, match=rf"{path}: the server answered {status}"):
        fetch()
    assert (len(server.seen(path)), pauses) == (1, [])


@pytest.mark.parametrize("status", [403, 503])
def test_what_a_server_says_cannot_steer_a_terminal(server, fetch, caplog, status):
    caplog.set_level(logging.INFO)
    server.always[PATH] = Fault(status=status, reason="\x1b[2JNo\tsuch")
    with pytest.raises(InputError, match=rf"the server answered {status} \?\[2JNo such;"):
        fetch(checksum=checksum_of(CONTENT))
    own = [record.getMessage() for record in caplog.records if record.name == "esm_sae"]
    assert len(own) == (3 if status == 503 else 0)
    assert all(message.isprintable() for message in own)


def test_a_missing_file_is_named(server, fetch, tmp_path):
    del server.files[PATH]
    with pytest.raises(InputError, match=rf"{server.url()}: the server answered 404 Not Found"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []


def test_redirects_that_lead_nowhere_are_the_end(server, fetch, pauses):
    server.always[PATH] = Fault(status=302, headers={"Location": PATH})
    with pytest.raises(InputError, match=rf"{PATH}: cannot be reached .*redirects"):
        fetch(checksum=checksum_of(CONTENT))
    server.always[PATH] = Fault(status=302, headers={"Location": "ftp://127.0.0.1/x"})
    with pytest.raises(InputError, match=rf"{PATH}: cannot be reached .*ftp"):
        fetch(checksum=checksum_of(CONTENT))
    assert pauses == []


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("7", 7.0), ("0", 1.0), ("86400", 600.0), ("9" * 400, 600.0), ("soon", 1.0), ("²", 1.0)],
)
def test_retry_after_is_honoured_within_bounds(server, fetch, pauses, asked, waited):
    server.fail(Fault(status=503, headers={"Retry-After": asked}))
    fetch(checksum=checksum_of(CONTENT))
    assert pauses == [waited]


def test_retry_after_may_be_a_time(server, fetch, pauses):
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    server.fail(Fault(status=503, headers={"Retry-After": in_a_minute}))
    server.fail(Fault(status=503, headers={"Retry-After": misbehaving.LONG_AGO}))
    fetch(checksum=checksum_of(CONTENT))
    assert 50 < pauses[0] <= 60
    assert pauses[1] == 2.0


def test_the_pause_grows_to_its_bound(server, fetch, pauses):
    server.always[PATH] = Fault(status=503)
    retry = quick(failures=10, sleep=pauses.append)
    with pytest.raises(InputError, match="10 failed attempts"):
        fetch(checksum=checksum_of(CONTENT), retry=retry)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_server_that_gives_a_byte_at_a_time_ends_and_keeps_them(server, fetch, tmp_path):
    server.always[PATH] = Fault(drop_after=1)
    with pytest.raises(InputError, match="30 failed attempts"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == [".x.gz.download", ".x.gz.download.json"]
    server.always.clear()
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server)[-1] == "bytes=30-"
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


def test_starting_over_again_and_again_is_no_progress(server, fetch, tmp_path):
    drops = (60_000, 10_000, 20_000, 30_000, 40_000)
    server.fail(*(Fault(drop_after=drop, ignore_range=True) for drop in drops))
    with pytest.raises(InputError, match="4 failed attempts"):
        fetch(checksum=checksum_of(CONTENT))


# Wrong content


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


# Addresses and credentials


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
    other = misbehaving.MisbehavingServer()
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


# The disk


def test_a_full_disk_is_told_before_the_transfer(server, fetch, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 140_000))
    server.fail(Fault(drop_after=50_000))
    with pytest.raises(InputError, match=r"x\.gz: no space left .* 200,000 more bytes .* 140,000"):
        fetch(checksum=checksum_of(CONTENT))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 200_000))
    fetch(checksum=checksum_of(CONTENT))


def test_a_resumed_part_counts_for_the_space(server, fetch, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    server.fail(Fault(drop_after=60_000), Fault(status=403))
    with pytest.raises(InputError, match="403"):
        fetch(checksum=checksum_of(CONTENT))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 139_999))
    with pytest.raises(InputError, match=r"140,000 more bytes are needed and 139,999 are free"):
        fetch(checksum=checksum_of(CONTENT))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 140_000))
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server)[-1] == "bytes=60000-"
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


@contextmanager
def largest_file(size):
    """Let the system refuse to make files larger: a stand-in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_keeps_the_part(server, fetch, tmp_path):
    content = CONTENT * 40
    server.files[PATH] = File(content)
    (tmp_path / "x.gz").write_bytes(b"old")
    with (
        largest_file(5_000_000),
        pytest.raises(InputError, match=r"x\.gz: no space left .* 3,000,000 more bytes are needed"),
    ):
        fetch(checksum=checksum_of(content))
    assert (tmp_path / "x.gz").read_bytes() == b"old"
    fetch(checksum=checksum_of(content))
    assert ranges(server) == [None, "bytes=5000000-"]
    assert (tmp_path / "x.gz").read_bytes() == content


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_only_what_means_a_full_disk_is_called_so(tmp_path, code):
    part = part_file.PartFile(tmp_path / "x.gz")
    expected = (OSError, "I/O") if code == errno.EIO else (InputError, "no space left")
    with pytest.raises(expected[0], match=expected[1]), part.appending(None):
        raise OSError(code, "I/O")


def test_what_was_appended_is_on_disk_at_once(tmp_path):
    part = part_file.PartFile(tmp_path / "x.gz")
    with part.appending(None) as append:
        append(b"123")
        assert part.path.read_bytes() == b"123"


def test_an_end_while_publishing_keeps_the_bytes(server, fetch, tmp_path, monkeypatch):
    place_at = part_file.PartFile.place_at

    def place_and_end(part, temporary):
        place_at(part, temporary)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(part_file.PartFile, "place_at", place_and_end)
        with pytest.raises(KeyboardInterrupt):
            fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == [".x.gz.download", ".x.gz.download.json"]
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server) == [None]


def test_a_file_system_without_hard_links_is_fine(server, fetch, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


# The part on disk


def leave_part(server, fetch, size=60_000, **options):
    server.fail(Fault(drop_after=size), Fault(status=403))
    with pytest.raises(InputError, match="403"):
        fetch(checksum=checksum_of(CONTENT), **options)
    server.requests.clear()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b'{"url": "x"}',
        b'{"url":1,"checksum":null,"size":1,"etag":null,"last_modified":null,"release":null}',
        None,
    ],
)
def test_a_part_without_a_good_record_is_not_used(server, fetch, tmp_path, record):
    leave_part(server, fetch)
    path = tmp_path / ".x.gz.download.json"
    path.unlink() if record is None else path.write_bytes(record)
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server) == [None]
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_a_part_of_another_file_is_not_used(server, fetch, tmp_path):
    leave_part(server, fetch)
    server.files[PATH] = File(OTHER)
    fetch(checksum=checksum_of(OTHER))
    assert ranges(server) == [None]
    assert (tmp_path / "x.gz").read_bytes() == OTHER


def test_a_whole_part_of_another_file_is_not_used_either(server, fetch, tmp_path):
    part = part_file.PartFile(tmp_path / "x.gz")
    part.start(part_file.Origin(server.url(), None, len(OTHER), '"two"', None, None))
    part.path.write_bytes(OTHER)
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_a_part_from_another_address_is_not_used(server, fetch, tmp_path):
    leave_part(server, fetch)
    server.files["/else/x.gz"] = File(CONTENT)
    download(server.url("/else/x.gz"), tmp_path / "x.gz", checksum=checksum_of(CONTENT))
    assert [request.headers.get("range") for request in server.seen("/else/x.gz")] == [None]


def test_a_part_larger_than_the_file_is_not_used(server, fetch, tmp_path):
    leave_part(server, fetch)
    (tmp_path / ".x.gz.download").write_bytes(CONTENT + OTHER)
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server) == [None]
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT, OTHER], ids=["right", "wrong"])
def test_a_whole_part_is_checked_and_used(server, fetch, tmp_path, content):
    leave_part(server, fetch)
    (tmp_path / ".x.gz.download").write_bytes(content)
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server) == ([] if content == CONTENT else [None])
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


def test_a_part_is_removed_when_the_file_is_there_already(server, fetch, tmp_path):
    fetch(checksum=checksum_of(CONTENT))
    part = part_file.PartFile(tmp_path / "x.gz")
    part.start(part_file.Origin(server.url(), None, 10, '"old"', None, None))
    part.path.write_bytes(b"12345")
    (tmp_path / "..x.gz.download.json.0123456789ab.partial").write_bytes(b"killed")
    assert fetch(checksum=checksum_of(CONTENT)).unchanged
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


def test_starting_anew_spares_the_target_that_shares_the_bytes_of_the_part(server, fetch, tmp_path):
    """As a kill leaves it between publishing and tidying up."""
    fetch(checksum=checksum_of(CONTENT))
    part = part_file.PartFile(tmp_path / "x.gz")
    part.describe(part_file.Origin(server.url(), checksum_of(CONTENT), 200_000, None, None, None))
    os.link(tmp_path / "x.gz", part.path)
    server.files[PATH] = File(OTHER)
    server.fail(Fault(drop_after=60_000), Fault(status=403))
    with pytest.raises(InputError, match="403"):
        fetch(checksum=checksum_of(OTHER))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("identified", [True, False])
def test_several_at_once_wait_for_one_another(server, tmp_path, identified):
    if not identified:
        server.files[PATH] = File(CONTENT, etag=None, last_modified=None)
    server.always[PATH] = Fault(pause=0.005, piece=20_000)
    options = {"checksum": checksum_of(CONTENT)} if identified else {}
    products = []

    def run():
        products.append(download(server.url(), tmp_path / "x.gz", **options))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(product.unchanged for product in products) == [False, True, True]
    # With nothing that identifies the file, each looks at it and then downloads it.
    assert len(server.seen()) == (1 if identified else 6)
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]


@pytest.mark.parametrize("scenario", ["download", "source"])
def test_a_kill_before_any_step_leaves_old_or_new(server, tmp_path, python_environment, scenario):
    server.files["/rel/x.gz"] = File(b">new\n" + b"MKV" * 50_000)
    server.files["/old/x.gz"] = File(b">old\n" + b"MKL" * 9_000)
    result = subprocess.run(
        [sys.executable, KILLS, scenario, server.url(), server.url("/old/x.gz"), tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        env=python_environment | {"NO_PROXY": "127.0.0.1"},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 15


# Anything at all

POSITIONS = st.integers(0, 1200)
SMALL, CHANGED = File(CONTENT[:1000]), File(OTHER[:1000], etag='"two"')
HONEST = st.one_of(
    st.just(Fault()),
    st.builds(Fault, drop_after=st.integers(1, 999)),
    st.builds(Fault, drop_after=POSITIONS, reset=st.booleans(), chunked=st.booleans()),
    st.builds(Fault, ignore_range=st.booleans(), chunked=st.booleans(), drop_after=POSITIONS),
    st.builds(Fault, shift=st.integers(1, 50), total=st.none() | st.just(999) | st.just("*")),
    st.builds(Fault, file=st.just(CHANGED), drop_after=st.none() | POSITIONS),
    st.just(Fault(file=CHANGED, ignore_if_range=True)),
    st.builds(Fault, status=st.sampled_from([500, 503, 429, 416, 404, 206, 301])),
    st.just(Fault(encoding="gzip")),
    st.just(Fault(unframed=True)),
    st.just(Fault(file=File(b"<html>log in</html>", content_type="text/html"))),
)
LIES = st.one_of(
    st.builds(Fault, truncate_to=POSITIONS, chunked=st.booleans(), unframed=st.booleans()),
    st.builds(Fault, shift=st.integers(1, 50), lie=st.just(True)),
    st.builds(Fault, file=st.just(File(OTHER[:1000])), drop_after=st.none() | POSITIONS),
    st.builds(Fault, file=st.just(File(OTHER[:1300])), drop_after=st.none() | POSITIONS),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@pytest.mark.parametrize("verified", [True, False])
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_goes_wrong_the_file_is_right_or_the_old_one_stays(
    running, folder, verified, data
):
    target = folder / f"{verified}" / "x.gz"
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    old = data.draw(st.sampled_from([None, b"old"]))
    if old is not None:
        target.write_bytes(old)
    running.reset()
    running.files[PATH] = SMALL
    if verified:
        list_in_metalink(running, SMALL.content)
    faults = HONEST | LIES if verified else HONEST
    retry = quick(failures=3, sleep=lambda seconds: None)
    allowed = [SMALL.content] if verified else [SMALL.content, CHANGED.content]
    for _ in range(2):
        running.faults.clear()
        running.fail(*data.draw(st.lists(faults, max_size=6)))
        try:
            download(running.url(), target, retry=retry)
        except InputError:
            assert (target.read_bytes() if target.exists() else None) == old
        else:
            assert target.read_bytes() in allowed
            old = target.read_bytes()
            recorded = read_manifest(target.with_name("x.gz.manifest.json"))
            assert recorded.summary["sha256"] == hashlib.sha256(old).hexdigest()
    running.faults.clear()
    download(running.url(), target, retry=retry)
    assert target.read_bytes() == SMALL.content
    assert names_in(target.parent) == ["x.gz", "x.gz.manifest.json"]


def test_the_record_of_a_part_is_there_before_its_bytes(server, fetch, tmp_path, monkeypatch):
    seen = []
    start = part_file.PartFile.start

    def started(part, origin):
        start(part, origin)
        seen.append(part.path.exists())
        seen.append(json.loads((tmp_path / ".x.gz.download.json").read_text()))

    monkeypatch.setattr(part_file.PartFile, "start", started)
    fetch(checksum=checksum_of(CONTENT))
    assert seen == [
        False,
        {
            "url": server.url(),
            "checksum": checksum_of(CONTENT),
            "size": len(CONTENT),
            "etag": '"one"',
            "last_modified": misbehaving.LONG_AGO,
            "release": None,
        },
    ]
