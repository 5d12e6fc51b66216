"""A server that speaks S3 (moto's), as a process of its own on a free port of 127.0.0.1."""

import contextlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dagster_dev import free_port

_SECONDS_TO_ANSWER = 60

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETEST", "AWS_SECRET_ACCESS_KEY": "SECRETOFTHETEST"}


class S3Server:
    """A running server.

    Attributes:
        environment: variables with which its clients find it.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **CREDENTIALS,
        }
        self._log = log

    def written(self) -> list[str]:
        """Return the paths of all requests so far that changed something, in order."""
        # What the server colours it would not split well.
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text()).splitlines()
        requests = [line.split('"')[1].split() for line in lines if '"' in line]
        return [
            request[1]
            for request in requests
            if len(request) == 3 and request[0] in ("PUT", "POST", "DELETE")
        ]


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[S3Server]:
    """Run a server with an empty bucket; its log goes to a file in the folder."""
    port = free_port()
    log = folder / "s3.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _make_bucket(f"http://127.0.0.1:{port}/{bucket}", process, log)
        yield S3Server(port, log)
    finally:
        process.terminate()
        process.wait()


def _make_bucket(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_ANSWER
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())
