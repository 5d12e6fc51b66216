"""Kill a download before each of its steps on disk, and check what it leaves. Run as a script.

With ``source`` it is the download of ``provide_source``, over a copy of the bundled proteins.

A child is forked for each step and dies by SIGKILL before its n-th call that changes the disk or
forces it there, or before the n-th piece of the body is written.
"""

import contextlib
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
from esm_sae.errors import InputError
from esm_sae.formats import manifest as manifests
from esm_sae.sequences import provide_source, provided_source
from esm_sae.sequences.download import download

STEPS = ("replace", "fsync", "unlink", "link", "mkdir")


def main() -> None:
    """Print the number of kills survived.

    Arguments are ``download`` or ``source``, two URLs of the file and a folder.
    """
    scenario, new_url, old_url, root = *sys.argv[1:4], Path(sys.argv[4])
    # A kill loses nothing that was written, so the slow part of syncing can be left out.
    os.fsync = lambda descriptor: None
    # Reading the system's certificates takes long, and none are needed.
    httpx.Client = functools.partial(httpx.Client, verify=ssl.create_default_context())
    new, old = (_content(url, root) for url in (new_url, old_url))
    kills = 0
    killed = {"download": _killed_before_step, "source": _killed_source_before_step}[scenario]
    while killed(kills, root, (new_url, new), (old_url, old)):
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


def _killed_source_before_step(
    step: int, root: Path, new: tuple[str, bytes], old: tuple[str, bytes]
) -> bool:
    folder = root / str(step)
    # Even steps find a copy of the bundled proteins, odd ones an older download.
    _provide(folder, None if step % 2 == 0 else old)
    if (child := os.fork()) == 0:
        _die_before(step // 2)
        _provide(folder, new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(InputError):
        # What is said to be in use is what is there, or it is refused.
        source = provided_source(folder)
        assert storage.sha256_of(source.location) == source.sha256, step
    for file in (new, old, new):
        _provide(folder, file)
        assert Path(provided_source(folder).location).read_bytes() == file[1], step
    names = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
    data = ["uniref50.fasta.gz", "uniref50.fasta.gz.manifest.json"]
    assert names == [*data, "uniref50.manifest.json", "uniref50.source.json"], (step, names)
    shutil.rmtree(folder)
    # Both kinds of start run the same number of steps, but for the copy's own manifest.
    return os.WIFSIGNALED(status) or step % 2 == 0


def _provide(folder: Path, file: tuple[str, bytes] | None) -> None:
    if file is None:
        provide_source("bundled", folder)
    else:
        url, content = file
        provide_source(url, folder, checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")


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
