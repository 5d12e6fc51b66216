"""Compiled code kept on disk: of processes that compile at once, none loads another's code."""

import os
import subprocess
import sys

import pytest

KEPT = """
from esm_sae.compiled import compiled

@compiled()
def total(values):
    result = values[0]
    for value in values[1:]:
        result += value
    return result
"""
USE = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from kept import total
assert total(np.ones(3, sys.argv[2])) == 3
"""
# Holds up the process that has chosen a file's name until the other one has chosen one too, which
# with a lock it can't.
MEET = """
import pathlib, sys, time
from numba.core.caching import IndexDataCacheFile

save = IndexDataCacheFile._save_index
folder, mine = pathlib.Path(sys.argv[1]), sys.argv[2]

def wait_for_both(what, seconds):
    (folder / f"{mine}.{what}").touch()
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(list(folder.glob(f"*.{what}"))) < 2:
        time.sleep(0.01)

def meet(cache_file, overloads):
    wait_for_both("chosen", 3)
    save(cache_file, overloads)

IndexDataCacheFile._save_index = meet
wait_for_both("ready", 60)
"""
LIST = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from kept import total
names = total._cache._cache_file._load_index().values()
pathlib.Path(sys.argv[1], "names").write_text(" ".join(names))
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts Python with the compiled function at hand."""
    (tmp_path / "kept.py").write_text(KEPT)
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(code, *arguments):
        command = [sys.executable, "-c", code, str(tmp_path), *arguments]
        return subprocess.Popen(command, env=variables)

    return run


def test_two_signatures_saved_at_once_have_files_of_their_own(start, tmp_path):
    both = [start(MEET + USE, kind) for kind in ("float64", "int64")]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert start(LIST).wait(timeout=120) == 0
    names = (tmp_path / "names").read_text().split()
    assert len(names) == 2
    assert len(set(names)) == 2


def test_code_is_kept_for_the_next_process(start, tmp_path):
    for _ in range(2):
        assert start(USE, "float64").wait(timeout=120) == 0
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
        assert len(kept) == 1
    assert list(tmp_path.rglob("*.lock")) == []
