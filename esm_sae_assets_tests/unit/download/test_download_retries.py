import email.utils
import logging
import time

import pytest

from download_setup import (
    CONTENT,
    METALINK,
    OTHER,
    PATH,
    checksum_of,
    list_in_metalink,
    names_in,
    quick,
    ranges,
)
from esm_sae.errors import InputError
from esm_sae.sequences.download import download
from misbehaving_server import LONG_AGO, Fault, File, MisbehavingServer


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
    closed = MisbehavingServer()
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
    server.fail(Fault(status=503, headers={"Retry-After": LONG_AGO}))
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
