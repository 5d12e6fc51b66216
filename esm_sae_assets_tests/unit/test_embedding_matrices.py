import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from esm_sae.embedding import matrices
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.errors import InputError


@pytest.fixture
def matrix(tmp_path):
    return MatrixFile(tmp_path / "work.npy", Path("/final/x.npy"), 5, 3, "float16")


def test_a_new_matrix_is_zero_and_a_plain_npy_file(matrix):
    rows = matrix.create()
    assert (rows == 0).all()
    rows[2] = 7
    rows.flush()
    loaded = np.load(matrix.path, allow_pickle=False)
    assert (loaded.shape, loaded.dtype) == ((5, 3), np.float16)
    assert loaded.sum() == 21


def test_it_is_the_file_that_numpy_writes(matrix, tmp_path):
    matrix.create()
    np.save(tmp_path / "saved.npy", np.zeros((5, 3), np.float16))
    assert matrix.path.read_bytes() == (tmp_path / "saved.npy").read_bytes()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_its_space_is_taken_where_nothing_can_be_allocated(matrix, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, "not supported")

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    monkeypatch.setattr(matrices, "_ZEROS", bytes(7))
    assert (matrix.create() == 0).all()
    assert matrix.path.stat().st_blocks > 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_at_once(matrix, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    usage = shutil.disk_usage(matrix.path.parent)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=0 if matrix.path.exists() else 12)
    )
    with pytest.raises(InputError, match=r"/final/x.npy: needs 30 bytes, 12 are free on its disk"):
        matrix.create()
    assert not matrix.path.exists()


def test_another_error_of_the_system_is_none_of_ours(matrix, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "posix_fallocate", broken, raising=False)
    with pytest.raises(OSError, match="input/output error"):
        matrix.create()


def test_what_was_filled_is_found_again(matrix):
    rows = matrix.create()
    rows[:] = np.arange(15).reshape(5, 3)
    rows.flush()
    np.testing.assert_array_equal(matrix.reopen(), rows)


@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_what_is_not_there_whole_is_not_found(matrix, damage):
    matrix.create()
    content = matrix.path.read_bytes()
    if damage == "missing":
        matrix.path.unlink()
    elif damage == "short":
        matrix.path.write_bytes(content[:-1])
    else:
        np.save(matrix.path, np.zeros((5, 4), np.float16))
    assert matrix.reopen() is None
