import hashlib
import subprocess
import sys
import time

import pytest

from esm_sae import download
from misbehaving_server import Fault, File, MisbehavingServer

CONTENT = hashlib.shake_256(b"content").digest(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
PATH = "/rel/x.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = MisbehavingServer()
    server.files[PATH] = File(CONTENT)
    yield server
    server.stop()


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_summary_tells_what_came_and_how_it_was_verified(server, tmp_path, capsys):
    target = tmp_path / "new" / "x.gz"
    arguments = [server.url(), "--output", str(target), "--checksum", MD5]
    assert download.main(arguments) == 0
    line = f"{target}: 300,000 bytes; verified by {MD5} (given)"
    assert capsys.readouterr().out == f"{line}\n"
    assert download.main(arguments) == 0
    assert capsys.readouterr().out == f"{line}; unchanged\n"
    assert target.read_bytes() == CONTENT


def test_without_a_checksum_the_summary_and_a_warning_say_so(server, tmp_path, python_environment):
    server.files[PATH] = File(CONTENT, release="2026_05")
    arguments = [server.url(), "--output", tmp_path / "x.gz", "--quiet"]
    result = subprocess.run(
        [sys.executable, "-m", "esm_sae.download", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=python_environment,
    )
    assert result.returncode == 0
    assert result.stdout == (
        f"{tmp_path / 'x.gz'}: 300,000 bytes; release 2026_05; not verified: no checksum is known\n"
    )
    assert "will not be verified" in result.stderr


def test_the_metalink_may_be_named(server, tmp_path, capsys):
    metalink = tmp_path / "m.xml"
    metalink.write_text(
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x.gz">'
        f'<version>2026_05</version><hash type="md5">{MD5[4:]}</hash></file></metalink>'
    )
    target = tmp_path / "x.gz"
    options = ["--metalink", str(metalink), "--output", str(target)]
    assert download.main([server.url(), *options]) == 0
    assert capsys.readouterr().out == (
        f"{target}: 300,000 bytes; release 2026_05; verified by {MD5} ({metalink})\n"
    )


def test_a_wrong_file_is_one_line_and_leaves_nothing(server, tmp_path, capsys):
    other = f"md5:{'0' * 32}"
    options = ["--output", str(tmp_path / "x.gz"), "--checksum", other]
    assert download.main([server.url(), *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {server.url()}: has the checksum {MD5}, but {other}")
    assert names_in(tmp_path) == []


def test_an_output_in_the_place_of_a_folder_is_refused(server, tmp_path, capsys):
    options = ["--output", str(tmp_path), "--checksum", MD5]
    assert download.main([server.url(), *options]) == 2
    assert "is a directory, expected a file" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--checksum", MD5]], ids=["unverified", "verified"])
def test_a_killed_download_goes_on_where_it_stopped(
    server, tmp_path, python_environment, capsys, options
):
    (tmp_path / "x.gz").write_bytes(b"old")
    if not options:
        server.fail(Fault())
    server.fail(Fault(piece=2_000, pause=0.02))
    arguments = [server.url(), "--output", str(tmp_path / "x.gz"), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "esm_sae.download", *arguments],
        env=python_environment,
        stderr=subprocess.DEVNULL,
    )
    part = tmp_path / ".x.gz.download"
    wait_until(lambda: part.exists() and part.stat().st_size > 20_000)
    process.kill()
    process.wait()
    kept = part.stat().st_size
    assert kept < len(CONTENT)
    assert (tmp_path / "x.gz").read_bytes() == b"old"
    assert download.main(arguments) == 0
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    last = server.seen()[-1]
    assert last.headers["range"] == f"bytes={kept}-"
    assert last.headers["if-range"] == '"one"'
    assert last.sent == len(CONTENT) - kept
    assert names_in(tmp_path) == ["x.gz", "x.gz.manifest.json"]
