"""Every output names a full disk, whatever writes its files, and leaves none half written."""

import errno
import os
import re

import numpy as np
import polars as pl
import pytest

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import produce_files, produce_folder, read_manifest
from file_limits import largest_file

LIMIT = 20_000
NOISE = np.random.default_rng(0).random(LIMIT)


def save(path):
    with path.open("wb") as file:
        np.save(file, NOISE)


WRITERS = {
    "bytes": lambda path: path.write_bytes(NOISE.tobytes()),
    "numpy": save,
    "polars": lambda path: pl.DataFrame({"x": NOISE}).write_parquet(path),
    "polars_lazy": lambda path: pl.LazyFrame({"x": NOISE}).sink_parquet(path),
}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write_small(path):
    path.write_bytes(b"small")


def make_files(root, write, **determinants):
    def build(paths):
        write_small(paths[0])
        write(paths[1])
        return {}

    return produce_files(
        [root / "a", root / "b"],
        manifest=root / "a.manifest.json",
        kind="test",
        determinants=determinants,
        build=build,
    )


def make_folder(root, write, **determinants):
    def build(work):
        write_small(work / "a")
        with storage.publish(work / "b") as temporary:
            write(temporary)
        return {}

    return produce_folder(root / "made", kind="test", determinants=determinants, build=build)


MAKERS = pytest.mark.parametrize("make", [make_files, make_folder])


def message_of(error):
    return re.fullmatch(
        r".*/(?:a|made): cannot be written \((.+); [0-9,]+ bytes are free on its disk\); "
        r"make room and run it again",
        str(error.value),
    )


@MAKERS
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_whatever_writes(tmp_path, make, writer):
    old = make(tmp_path, write_small, seed=0)
    before = names_in(tmp_path)
    with largest_file(LIMIT), pytest.raises(InputError) as error:
        make(tmp_path, WRITERS[writer], seed=1)
    assert re.fullmatch("File too large|[0-9]+ requested and [0-9]+ written", message_of(error)[1])
    left = [name for name in names_in(tmp_path) if name not in before]
    # Of a folder, what is whole stays for the next run to go on from.
    assert [names_in(tmp_path / name) for name in left] == ([["a"]] if make is make_folder else [])
    assert make(tmp_path, WRITERS[writer], seed=1).unchanged is False
    assert names_in(tmp_path) == before
    assert old.manifest.fingerprint != read_manifest(old.manifest_path).fingerprint


@MAKERS
def test_a_full_disk_keeps_the_old_output_even_where_only_the_manifest_lacks_room(tmp_path, make):
    make(tmp_path, write_small, seed=0)
    with largest_file(LIMIT), pytest.raises(InputError) as error:
        make(tmp_path, write_small, seed="1" * LIMIT)
    assert message_of(error)[1] == "File too large"
    assert make(tmp_path, write_small, seed=0).unchanged
    assert [name for name in names_in(tmp_path) if name.startswith(".")] == []


@MAKERS
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_may_show_when_a_file_is_flushed(tmp_path, make, code, monkeypatch):
    def full(descriptor):
        raise OSError(code, os.strerror(code))

    make(tmp_path, write_small, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError) as error:
            make(tmp_path, write_small, seed=1)
    assert message_of(error)[1] == os.strerror(code)
    assert make(tmp_path, write_small, seed=0).unchanged
    assert [name for name in names_in(tmp_path) if name.startswith(".")] == []


@MAKERS
@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        OSError("odd"),
        pl.exceptions.ComputeError("Permission denied (os error 13)"),
        ValueError("3 requested and 2 written"),
    ],
)
def test_other_errors_are_not_called_a_full_disk(tmp_path, make, cause):
    def fail(path):
        raise cause

    with pytest.raises(type(cause), match=re.escape(str(cause))):
        make(tmp_path, fail)
