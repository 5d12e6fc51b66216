"""A Ray cluster of two nodes on this machine, each with one core and one GPU by name only.

Ray listens on every address there is, whatever it is told: only inside a network namespace that
has nothing but loopback (``unshare -rn``). It asks for a token besides, which everything that this
process starts inherits.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

DASHBOARD = "http://127.0.0.1:8265"

_GCS_PORT = 6379
_RETRIES = 4
_START = [
    "ray",
    "start",
    "--block",
    "--node-ip-address=127.0.0.1",
    "--num-cpus=1",
    "--num-gpus=1",
    "--object-store-memory=80000000",
    "--include-log-monitor=false",
    "--disable-usage-stats",
]


@contextlib.contextmanager
def two_nodes(log: Path) -> Iterator[None]:
    """Start the cluster, and stop it at last; what it prints goes to ``log``."""
    _require_loopback_only()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Ray's sockets are in it, and the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        # With a port of its own choice Ray ends the head if that is not known after 30 s.
        agent = "--runtime-env-agent-port=52360"
        head = ["--head", f"--port={_GCS_PORT}", f"--temp-dir={folder}", agent]
        second = [f"--address=127.0.0.1:{_GCS_PORT}", "--dashboard-agent-listen-port=52366"]
        with _node(head, 1, log), _node(second, 2, log):
            yield


def _require_loopback_only() -> None:
    names = [name for _, name in socket.if_nameindex()]
    assert names == ["lo"], f"Ray would listen on {names}: run this under unshare -rn"
    # What `ip link set lo up` does, where there is no ip: SIOCSIFFLAGS with IFF_UP.
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))


@contextlib.contextmanager
def _node(arguments: list[str], number: int, log: Path) -> Iterator[None]:
    process = _launch(arguments, log)
    try:
        for _ in range(_RETRIES):
            if _joins(process, number):
                break
            process = _launch(arguments, log)
        assert _joins(process, number), log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _launch(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    # A step is the command `dagster`, which Ray's processes have to find.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("ab") as output:
        return subprocess.Popen(
            [*_START, *arguments],
            env=os.environ | {"PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _joins(process: subprocess.Popen[bytes], number: int) -> bool:
    """Wait until a node is one of ``number``; False if it gives up, as Ray does after 30 s."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if _alive_nodes() == number:
                return True
        time.sleep(0.2)
    return False


def _alive_nodes() -> int:
    token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    asked = urllib.request.Request(f"{DASHBOARD}/nodes?view=summary", headers=token)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        nodes = json.load(answer)["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
