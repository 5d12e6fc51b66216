"""Batches of training rows: which rows, in which order, read ahead, streamed or resident."""

import gc
import mmap
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from esm_sae.formats.shards import EmbeddingShards, open_shards
from esm_sae.sae import row_sources
from esm_sae.sae.order import EpochOrder
from esm_sae.sae.reading import Reader
from esm_sae.sae.row_sources import ResidentRows, StreamedRows, announce, fit_on_device
from esm_sae.sae.rows import RowRuns

SEED = 5


def contents(batches):
    """Return the batches as plain values."""
    return [(np.array(b.rows), np.array(b.mask), b.count) for b in batches]


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])
        assert left[2] == right[2]


def reader(shards, rows=None, *, batch_size=8, **options):
    rows = RowRuns.all(shards.rows) if rows is None else rows
    return Reader(shards, rows, batch_size=batch_size, seed=SEED, **options)


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", [1, 5, 40, 41, 50])
def test_batches_are_the_rows_of_the_order_the_tail_included(make_shards, dtype, size):
    folder, matrix = make_shards(proteins=41, width=3, count=4, dtype=dtype)
    shards = open_shards(folder)
    for share in (0, 0.5, 1):
        chosen = np.flatnonzero(np.random.default_rng(size).random(41) < share)
        batches = list(reader(shards, RowRuns.of(chosen), batch_size=size).batches(size))
        order = EpochOrder(len(chosen), SEED, size).places(0, len(chosen))
        expected = [np.sort(chosen[order[at : at + size]]) for at in range(0, len(chosen), size)]
        assert [batch.count for batch in batches] == [len(numbers) for numbers in expected]
        for batch, numbers in zip(batches, expected, strict=True):
            assert batch.rows.shape == (size, 3)
            assert batch.rows.dtype == batch.mask.dtype == np.float32
            np.testing.assert_array_equal(batch.rows[: batch.count], matrix[numbers])
            assert not batch.rows[batch.count :].any()
            np.testing.assert_array_equal(batch.mask, np.arange(size) < batch.count)


def test_an_epoch_goes_on_from_any_batch(make_shards):
    shards = open_shards(make_shards(proteins=41, count=4)[0])
    whole = contents(reader(shards).batches(2))
    for first in range(8):
        assert_same(contents(reader(shards).batches(2, first)), whole[first:])


@pytest.mark.parametrize("dtypes", [("float32",), ("float16",), ("float32", "float16")])
@pytest.mark.filterwarnings("ignore:.*plain matrices with nothing beside them")
def test_resident_rows_give_the_same_batches(tmp_path, monkeypatch, dtypes):
    monkeypatch.setattr(row_sources, "_ROWS_PER_PIECE", 7)
    for number, dtype in enumerate(dtypes):
        values = np.random.default_rng(number).standard_normal((30, 4)) * 10.0**number
        np.save(tmp_path / f"{number}.npy", values.astype(dtype))
    shards = open_shards(tmp_path)
    rows = RowRuns.of(np.flatnonzero(np.arange(shards.rows) % 3))
    for epoch in (1, 2):
        resident = list(reader(shards, rows, resident=True).batches(epoch))
        assert all(isinstance(batch.rows, jax.Array) for batch in resident)
        streamed = reader(shards, rows, resident=False).batches(epoch)
        assert_same(contents(resident), contents(streamed))
    table = ResidentRows(shards, rows)._table
    assert (table.shape, table.dtype) == ((len(rows), 4), max(dtypes))


def test_one_row_in_batches_of_many(make_shards):
    shards = open_shards(make_shards(proteins=1, count=1)[0])
    for resident in (True, False):
        (batch,) = reader(shards, batch_size=100, resident=resident).batches(1)
        assert (batch.count, np.asarray(batch.mask).sum()) == (1, 1)
        np.testing.assert_array_equal(np.asarray(batch.rows)[0], shards.arrays[0][0])


def test_a_batch_is_placed_ahead_of_use_in_the_thread_that_reads(make_shards):
    shards = open_shards(make_shards(proteins=12)[0])
    threads = []

    def place(rows, mask):
        threads.append(threading.current_thread())
        return rows * 2, mask * 3

    batches = contents(reader(shards, place=place).batches(1))
    plain = contents(reader(shards).batches(1))
    assert_same(batches, [(rows * 2, mask * 3, count) for rows, mask, count in plain])
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_two_batches_are_read_ahead_and_no_more(make_shards):
    shards = open_shards(make_shards(proteins=80)[0])
    begun = threading.Semaphore(0)
    batches = reader(shards, place=lambda *arrays: begun.release() or arrays).batches(1)
    next(batches)
    for _ in range(3):
        assert begun.acquire(timeout=60)
    assert not begun.acquire(timeout=0.2)
    next(batches)
    assert begun.acquire(timeout=60)
    batches.close()


@pytest.mark.parametrize("leave", ["close", "collect", "exhaust"])
def test_the_thread_ends_with_the_batches(make_shards, leave):
    before = reading_threads()
    batches = reader(open_shards(make_shards(proteins=80)[0])).batches(1)
    next(batches)
    assert len(reading_threads()) == len(before) + 1
    if leave == "close":
        batches.close()
    elif leave == "exhaust":
        assert len(list(batches)) == 9
    del batches
    gc.collect()
    assert reading_threads() == before


def test_an_error_is_raised_where_its_batch_would_be(make_shards, monkeypatch):
    shards = open_shards(make_shards(proteins=80)[0])
    before, original = reading_threads(), EmbeddingShards.rows_at
    reads = []

    def rows_at(self, indices):
        reads.append(indices)
        if len(reads) == 3:
            raise OSError("the disk is gone")
        return original(self, indices)

    monkeypatch.setattr(EmbeddingShards, "rows_at", rows_at)
    batches = reader(shards).batches(1)
    assert [next(batches).count for _ in range(2)] == [8, 8]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert reading_threads() == before


def test_a_process_that_leaves_batches_unread_ends_in_peace(make_shards, python):
    folder, _ = make_shards(proteins=80)
    code = """
import sys, numpy as np
from esm_sae.formats.shards import open_shards
from esm_sae.sae.reading import Reader
from esm_sae.sae.rows import RowRuns
shards = open_shards(sys.argv[1])
batches = Reader(shards, RowRuns.all(80), batch_size=8, seed=0).batches(1)
print(next(batches).count)
"""
    done = python(code, folder)
    assert (done.stdout, done.stderr) == ("8\n", "")


def test_rows_lie_on_an_accelerator_when_half_of_its_free_memory_holds_them(
    make_shards, monkeypatch
):
    shards = open_shards(make_shards(proteins=10, width=4, dtype="float16")[0])
    rows = RowRuns.all(10)

    def with_memory(statistics):
        device = SimpleNamespace(memory_stats=lambda: statistics)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])

    # 10 rows of 4 numbers of 2 bytes.
    with_memory({"bytes_limit": 1160, "bytes_in_use": 1000})
    assert fit_on_device(shards, rows)
    assert isinstance(reader(shards, rows)._source, ResidentRows)
    assert isinstance(reader(shards, rows, resident=False)._source, StreamedRows)
    with_memory({"bytes_limit": 1159, "bytes_in_use": 1000})
    assert not fit_on_device(shards, rows)
    assert isinstance(reader(shards, rows)._source, StreamedRows)
    # A CPU's.
    with_memory(None)
    assert not fit_on_device(shards, rows)


def test_rows_on_disk_are_announced_from_then_on(make_shards, monkeypatch):
    shards = open_shards(make_shards(proteins=80)[0])
    waited, announced = iter([0, 1, 1, 9, 9, 9]), []
    monkeypatch.setattr(row_sources, "_reads_waited_for", lambda: next(waited))
    monkeypatch.setattr(
        row_sources, "announce", lambda shards, numbers: announced.append(numbers[0])
    )
    rows = StreamedRows(shards, RowRuns.all(80))
    for start in (0, 20, 40):
        rows.gather(np.arange(start, start + 16), 16)
    assert announced == [40]


@pytest.fixture
def advice(monkeypatch):
    """The advice given on each mapped file since: ``(file, option, first byte, bytes)``."""
    given, mapped = [], mmap.mmap

    class Recorded(mapped):
        def madvise(self, option, start=0, length=None):
            extent = (start,) if length is None else (start, length)
            given.append((self, option, start, len(self) if length is None else length))
            super().madvise(option, *extent)

    monkeypatch.setattr(mmap, "mmap", Recorded)
    return given


@pytest.mark.parametrize("width", [8, 1024, 1500])
def test_what_is_announced_are_the_pages_of_the_rows(make_shards, advice, width):
    shards = open_shards(make_shards(proteins=300, width=width, count=2)[0])
    numbers = np.array([0, 10, 11, 149, 150, 299])
    announce(shards, numbers)
    assert {option for _, option, _, _ in advice} == {mmap.MADV_WILLNEED}
    assert len(advice) == len(numbers)
    for number, (file, _, start, length) in zip(numbers, advice, strict=True):
        shard, row = divmod(int(number), 150)
        assert file is shards.arrays[shard].base
        assert start % mmap.PAGESIZE == 0
        content = file[start : start + length]
        assert content.endswith(shards.arrays[shard][row].tobytes())
        assert length < width * 4 + mmap.PAGESIZE


def test_the_advice_on_reading_is_taken_back_after_an_epoch(make_shards, advice):
    shards = open_shards(make_shards(proteins=80, count=2)[0])
    batches = reader(shards).batches(1)
    next(batches)
    assert [option for _, option, _, _ in advice] == [mmap.MADV_RANDOM] * 2
    advice.clear()
    batches.close()
    assert [option for _, option, _, _ in advice] == [mmap.MADV_NORMAL] * 2
    assert {id(file) for file, *_ in advice} == {id(array.base) for array in shards.arrays}


def test_matrices_that_are_in_memory_are_read_too(make_shards):
    folder, matrix = make_shards(proteins=20)
    shards = open_shards(folder)
    shards.arrays[:] = [np.array(array) for array in shards.arrays]
    announce(shards, np.arange(20))
    (batch,) = reader(shards, batch_size=20).batches(1)
    np.testing.assert_array_equal(batch.rows, matrix)
