import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from download_setup import CONTENT, OTHER, PATH, checksum_of, names_in, ranges
from esm_sae.errors import InputError
from esm_sae.sequences import part_file
from esm_sae.sequences.download import download
from misbehaving_server import LONG_AGO, Fault, File

KILLS = Path(__file__).with_name("crash_download_at_every_step.py")


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
            "last_modified": LONG_AGO,
            "release": None,
        },
    ]
