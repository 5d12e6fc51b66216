"""Kill a writer before each of its steps on disk, and check what it leaves. Run as a script.

One process forks a child for each step, so that all steps are covered in a second. The child dies
by SIGKILL before its n-th call that changes the disk or forces it there.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.formats import manifest as manifests

STEPS = ("replace", "fsync", "unlink", "rmdir", "mkdir")
NAMES = ("one.txt", "two.txt")


def main() -> None:
    """Run the scenario named by the first argument; print the number of kills survived."""
    scenario = sys.argv[1]
    # A kill loses nothing that was written, so the slow part of syncing can be left out.
    os.fsync = lambda descriptor: None
    if scenario == "folder_without_exchange":
        storage._exchange = lambda one, other: False
    write, state = {
        "publish": (_publish, _published_state),
        "files": (_files, _files_state),
        "folder": (_folder, _folder_state),
        "folder_without_exchange": (_folder, _folder_state),
    }[scenario]
    kills = 0
    while _killed_before_step(kills, write, state, absent_is_fine=scenario != "folder"):
        kills += 1
    print(kills)


def _killed_before_step(
    step: int,
    write: Callable[[Path, str], Any],
    state: Callable[[Path], str | None],
    *,
    absent_is_fine: bool,
) -> bool:
    root = Path(tempfile.mkdtemp())
    try:
        write(root, "old")
        if (child := os.fork()) == 0:
            _die_before(step)
            write(root, "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = state(root)
        allowed = {"old", "new", None} if absent_is_fine else {"old", "new"}
        assert found in allowed, (step, found)
        # The damage forces a build, which must not go on from files of the old output.
        (root / "x.manifest.json").unlink(missing_ok=True)
        if (damaged := root / "made" / NAMES[0]).exists():
            damaged.write_text("damaged")
        for content in ("new", "other", "new"):
            write(root, content)
            assert state(root) == content, (step, content)
        assert write is _publish or not _leftovers(root), (step, _leftovers(root))
        return os.WIFSIGNALED(status)
    finally:
        shutil.rmtree(root)


def _die_before(step: int) -> None:
    seen = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            return original(*arguments, **options)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def _publish(root: Path, content: str) -> None:
    storage.publish_text(root / "x.txt", content)


def _published_state(root: Path) -> str | None:
    return (root / "x.txt").read_text()


def _files(root: Path, content: str) -> None:
    def build(paths: list[Path]) -> dict[str, Any]:
        for path in paths:
            path.write_text(content)
        return {}

    manifests.produce_files(
        [root / name for name in NAMES],
        manifest=root / "x.manifest.json",
        kind="test",
        determinants={"content": content},
        build=build,
    )


def _files_state(root: Path) -> str | None:
    return _complete(root, manifests.read_manifest(root / "x.manifest.json"))


def _folder(root: Path, content: str) -> None:
    def build(work: Path) -> dict[str, Any]:
        for name in NAMES:
            # As a resumed build does: what is there already stays.
            if not (work / name).exists():
                storage.publish_text(work / name, content)
        storage.publish_text(work / f"only_{content}.txt", content)
        return {}

    manifests.produce_folder(
        root / "made", kind="test", determinants={"content": content}, build=build
    )


def _folder_state(root: Path) -> str | None:
    folder = root / "made"
    found = _complete(folder, manifests.read_manifest(folder))
    if found is not None:
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted([*NAMES, f"only_{found}.txt", "manifest.json"]), names
    return found


def _complete(folder: Path, manifest: manifests.Manifest | None) -> str | None:
    """Return the content that a manifest vouches for, having checked every file against it."""
    if manifest is None:
        return None
    content = manifest.determinants["content"]
    for name, entry in manifest.files.items():
        assert (folder / name).read_text() == content, (name, content)
        assert storage.sha256_of(folder / name) == entry["sha256"]
    return content


def _leftovers(root: Path) -> list[str]:
    # A lock's file may stay after a kill; it holds no lock and the next owner removes it.
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


if __name__ == "__main__":
    main()
