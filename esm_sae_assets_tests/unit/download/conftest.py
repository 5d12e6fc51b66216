"""A server that misbehaves, and downloads from it that wait for nothing."""

import functools
import ssl

import httpx
import pytest

from download_setup import CONTENT, PATH, quick
from esm_sae.sequences.download import download
from misbehaving_server import File, MisbehavingServer


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
    server = MisbehavingServer()
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
