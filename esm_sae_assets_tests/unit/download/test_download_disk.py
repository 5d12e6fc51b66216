import errno
import os
import shutil
from collections import namedtuple

import pytest

from download_setup import CONTENT, PATH, checksum_of, names_in, ranges
from esm_sae.errors import InputError
from esm_sae.sequences import part_file
from file_limits import largest_file
from misbehaving_server import Fault, File


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
