"""Run a command on a disk without room, then with room, and print what became of it. A script.

It is given a folder for the outputs, how many bytes of room the command is to find there the
first time, and the command with its options, of which the last is the path of the output in that
folder. A folder that is a disk of its own is filled up; else files are limited to that size.
"""

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from faults import hashes_in
from file_limits import largest_file


def main() -> None:
    """Make an output, another in its place with no room and with room, and that one elsewhere."""
    folder, room, module, *options = sys.argv[1:]
    disk = Path(folder)
    old, _ = _run(module, options, seed=0)
    before = _visible(disk)
    with _little_room(disk, int(room)) as free:
        failed, said = _run(module, options, seed=1)
        after = _visible(disk)
    new, _ = _run(module, options, seed=1)
    result = {
        "codes": [old, failed, new],
        "free": free,
        "said": said,
        "before": before,
        "after": after,
        "in_the_end": hashes_in(disk),
    }
    print(json.dumps(result))


def _run(module: str, options: list[str], *, seed: int) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = importlib.import_module(module).main([*options, "--seed", str(seed), "--quiet"])
    return code, said.getvalue()


@contextlib.contextmanager
def _little_room(disk: Path, room: int) -> Iterator[int]:
    """Leave a number of bytes free on a small disk, and give them back."""
    if not disk.is_mount():
        with largest_file(room):
            yield room
        return
    ballast = disk / ".ballast"
    ballast.write_bytes(bytes(_free(disk) - room))
    yield _free(disk)
    ballast.unlink()


def _free(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


def _visible(folder: Path) -> dict[str, str]:
    """Return the hashes of what a reader finds: work that can be gone on with is hidden."""
    hashes = hashes_in(folder)
    return {name: each for name, each in hashes.items() if "/." not in f"/{name}"}


if __name__ == "__main__":
    main()
