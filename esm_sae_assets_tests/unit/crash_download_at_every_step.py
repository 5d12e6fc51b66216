"""Kill a download before each of its steps on disk, and check what it leaves. Run as a script.

A child is forked for each step and dies by SIGKILL before its n-th call that changes the disk or
forces it there, or before the n-th piece of the body is written.
"""

import functools
import hashlib
import os
import shutil
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from esm_sae import storage
from esm_sae.formats import manifest as manifests
from esm_sae.sequences.download import download

STEPS = ("replace", "fsync", "unlink", "link", "mkdir")


def main() -> None:
    """Print the number of kills survived: arguments are two URLs of the file and a folder."""
    new_url, old_url, root = *sys.argv[1:3], Path(sys.argv[3])
    # A kill loses nothing that was written, so the slow part of syncing can be left out.
    os.fsync = lambda descriptor: None
    # Reading the system's certificates takes long, and none are needed.
    httpx.Client = functools.partial(httpx.Client, verify=ssl.create_default_context())
    new, old = (_content(url, root) for url in (new_url, old_url))
    kills = 0
    while _killed_before_step(kills, root, (new_url, new), (old_url, old)):
        kills += 1
    print(kills)


def _content(url: str, root: Path) -> bytes:
    path = root / "content"
    download(url, path)
    content = path.read_bytes()
    path.unlink()
    manifests.manifest_beside(path).unlink()
    return content


def _killed_before_step(
    step: int, root: Path, new: tuple[str, bytes], old: tuple[str, bytes]
) -> bool:
    folder = root / str(step)
    target = folder / "x.gz"
    _download(old, target)
    if (child := os.fork()) == 0:
        _die_before(step)
        _download(new, target)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    manifest = manifests.read_manifest(manifests.manifest_beside(target))
    assert target.read_bytes() in (new[1], old[1]), step
    if manifest is not None:
        assert manifest.files["x.gz"]["sha256"] == storage.sha256_of(target), step
    for url, content in (new, old, new):
        _download((url, content), target)
        assert target.read_bytes() == content, step
    names = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
    assert names == ["x.gz", "x.gz.manifest.json"], (step, names)
    shutil.rmtree(folder)
    return os.WIFSIGNALED(status)


def _download(file: tuple[str, bytes], target: Path) -> None:
    url, content = file
    download(url, target, checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")


def _die_before(step: int) -> None:
    seen = 0

    def count() -> None:
        nonlocal seen
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return original(*arguments, **options)

        return call

    def pieces(response: httpx.Response) -> Iterator[bytes]:
        for piece in iter_raw(response):
            count()
            yield piece

    iter_raw, httpx.Response.iter_raw = httpx.Response.iter_raw, pieces
    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    main()
