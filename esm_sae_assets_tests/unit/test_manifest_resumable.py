"""Outputs whose unfinished work outlives a stop."""

import pytest

from esm_sae.errors import InputError, ResumableError
from esm_sae.formats.manifest import discard_unfinished, produce_files, unfinished_in
from file_limits import largest_file


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write_all(paths):
    for path in paths:
        path.write_text("content")
    return {"files": len(paths)}


HOLD = """
import sys
from esm_sae import storage
with storage.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def make_resumable(folder, build, seed=1):
    return produce_files(
        [folder / "x.txt", folder / "x.parquet"],
        manifest=folder / "x.txt.manifest.json",
        kind="test",
        determinants={"seed": seed},
        build=build,
        resumable=True,
    )


def stop(error):
    """Return a build that writes one file and one of its own, then stops."""

    def build(paths):
        paths[0].write_text("kept")
        (paths[0].parent / "own.json").write_text("{}")
        (paths[0].parent / ".x.txt.0123456789ab.partial").write_text("unfinished")
        raise error

    return build


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError(), OSError(), ResumableError("come again")]
)
def test_files_are_gone_on_with_after_a_stop(tmp_path, error):
    with pytest.raises(type(error)):
        make_resumable(tmp_path, stop(error))
    found = []

    def build(paths):
        found.extend(names_in(paths[0].parent))
        paths[1].write_text("new")
        return {}

    product = make_resumable(tmp_path, build)
    assert found == ["own.json", "x.txt"]
    assert sorted(product.manifest.files) == ["x.parquet", "x.txt"]
    assert names_in(tmp_path) == ["x.parquet", "x.txt", "x.txt.manifest.json"]
    assert (tmp_path / "x.txt").read_text() == "kept"


def test_input_of_no_use_leaves_no_work_behind(tmp_path):
    with pytest.raises(InputError):
        make_resumable(tmp_path, stop(InputError("no use")))
    assert names_in(tmp_path) == []


def test_a_full_disk_behind_the_build_keeps_what_was_built(tmp_path):
    def build(paths):
        for path in paths:
            path.write_text("kept")
        return {"large": "x" * 9000}

    with largest_file(8000), pytest.raises(ResumableError, match=r"x\.txt: cannot be written"):
        make_resumable(tmp_path, build)
    found = []

    def finish(paths):
        found.extend(path.read_text() for path in paths)
        return {}

    make_resumable(tmp_path, finish)
    assert found == ["kept", "kept"]


def test_unfinished_work_is_found_and_discarded_unless_it_goes_on(tmp_path, start_python):
    (tmp_path / ".x.txt.no.work").mkdir()
    (tmp_path / f".y.txt.{'0' * 16}.work").write_text("no folder")
    with pytest.raises(RuntimeError):
        make_resumable(tmp_path, stop(RuntimeError()))
    assert unfinished_in(tmp_path) == [tmp_path / "x.txt"]
    holder = start_python(HOLD, tmp_path / "x.txt")
    assert holder.stdout.readline() == "held\n"
    discard_unfinished(tmp_path / "x.txt")
    assert unfinished_in(tmp_path) == [tmp_path / "x.txt"]
    holder.kill()
    holder.wait()
    discard_unfinished(tmp_path / "x.txt")
    assert names_in(tmp_path) == [".x.txt.no.work", f".y.txt.{'0' * 16}.work"]


def test_work_of_another_fingerprint_is_removed(tmp_path):
    with pytest.raises(RuntimeError):
        make_resumable(tmp_path, stop(RuntimeError()))
    make_resumable(tmp_path, write_all, seed=2)
    assert names_in(tmp_path) == ["x.parquet", "x.txt", "x.txt.manifest.json"]
    assert make_resumable(tmp_path, write_all, seed=2).unchanged
    with pytest.raises(RuntimeError):
        make_resumable(tmp_path, stop(RuntimeError()))
    assert make_resumable(tmp_path, write_all, seed=2).unchanged
    assert names_in(tmp_path) == ["x.parquet", "x.txt", "x.txt.manifest.json"]
