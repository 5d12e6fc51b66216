"""What a second look finds in files, tables and figures."""

import json
import math

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats import verification
from esm_sae.formats.manifest import MANIFEST_NAME, produce_folder
from esm_sae.formats.verification import (
    lacking,
    not_finite,
    out_of_order,
    outside,
    product_at,
    refuse_rows,
    require_equal,
    require_figures,
    require_files,
    scan_table,
    seeded_rows,
    seeded_runs,
)


@pytest.fixture
def product(tmp_path):
    def build(work):
        (work / "small").write_bytes(b"abc")
        (work / "large").write_bytes(b"0123456789")
        return {}

    return produce_folder(tmp_path / "made", kind="test", determinants={}, build=build)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.parquet"
    rows = {
        "name": ["a", "b", None, "d"],
        "share": [0.5, 1.5, None, math.nan],
        "low": [0.1, 0.1, 0.9, None],
    }
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_the_files_of_a_manifest_are_there(product):
    assert require_files(product) == 2
    assert product_at(product.path).manifest == product.manifest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"small: is gone, the manifest names it; make it again"),
        (b"ab", r"small: has 2 bytes, the manifest says 3"),
        (b"abd", r"small: is not what was written \(another sha256\)"),
    ],
)
def test_a_file_that_is_not_as_recorded_is_named(product, content, message):
    path = product.path / "small"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        require_files(product)


def test_what_is_large_is_known_by_its_size(product, monkeypatch):
    monkeypatch.setattr(verification, "_MOST_HASHED", 5)
    (product.path / "large").write_bytes(b"9876543210")
    assert require_files(product) == 2
    (product.path / "small").write_bytes(b"abd")
    with pytest.raises(InputError, match="small: is not what was written"):
        require_files(product)


def test_what_has_no_manifest_is_no_output(tmp_path):
    assert product_at(tmp_path) is None
    assert product_at(tmp_path / "x.parquet") is None
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"kind": "x"}))
    with pytest.raises(InputError, match="not a manifest"):
        product_at(tmp_path)


def test_a_table_has_its_columns_and_types(table, tmp_path):
    assert scan_table(table, {"share": pl.Float64}).collect().height == 4
    with pytest.raises(InputError, match="lacks the column other"):
        scan_table(table, ("name", "other"))
    with pytest.raises(InputError, match="column share is Float64, not Float32"):
        scan_table(table, {"share": pl.Float32})
    with pytest.raises(InputError, match="no such file"):
        scan_table(tmp_path / "none.parquet", ())
    table.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable parquet table"):
        scan_table(table, ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lacking("name"), "1 of 4 rows have no name, such as low 0.9; make it again"),
        (outside(0, 1, "share"), "2 of 4 rows have a share outside 0 to 1, such as low 0.1; low"),
        (not_finite("share"), "1 of 4 rows have a share that is not finite, such as low None"),
        (
            out_of_order("share", "low", "low"),
            "2 of 4 rows have a low outside share to low, such as",
        ),
    ],
)
def test_rows_that_do_not_pass_are_counted_and_named(table, wrong, message):
    with pytest.raises(InputError, match=message):
        refuse_rows(table, pl.scan_parquet(table), wrong, named_by=["low"])


def test_rows_that_pass_are_counted(table):
    sound = pl.scan_parquet(table).head(1)
    wrong = lacking("name") | outside(0, 1, "share") | not_finite("share")
    assert refuse_rows(table, sound, wrong, named_by=["name"]) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "fvu is None, expected a number"),
        (True, "fvu is True, expected a number"),
        (math.nan, "fvu is nan, expected a number"),
        ("0.1", "fvu is '0.1', expected a number"),
        (1.5, "fvu is 1.5, expected 0 to 1"),
        (math.inf, "fvu is inf, expected 0 to 1"),
    ],
)
def test_a_figure_that_is_none_is_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        require_figures(tmp_path, {"fvu": value}, {"fvu": (0, 1)})


def test_figures_within_their_bounds_pass(tmp_path):
    require_figures(tmp_path, {"fvu": 0.5, "rows": 1}, {"fvu": (0, 1), "rows": (1, 1)})
    require_equal(tmp_path, {"rows": (5, 5)})
    with pytest.raises(InputError, match="rows: found 5,000, expected 6; make it again"):
        require_equal(tmp_path, {"shards": (1, 1), "rows": (5_000, 6)})


def test_the_rows_drawn_are_the_same_every_time():
    assert seeded_rows(3, 10).tolist() == [0, 1, 2]
    drawn = seeded_rows(1_000, 10)
    assert len(drawn) == len(set(drawn.tolist())) == 10
    assert (np.diff(drawn) > 0).all()
    assert drawn.tolist() == seeded_rows(1_000, 10).tolist()


@pytest.mark.parametrize("rows", [1, 7, 64, 1_000])
def test_runs_of_rows_are_neighbours_and_in_order(rows):
    table = pl.LazyFrame({"row": range(rows)})
    drawn = seeded_runs(table, rows, runs=3, length=8)["row"].to_list()
    assert len(drawn) == min(rows, len(drawn)) > 0
    assert drawn == sorted(set(drawn))
    assert all(start % 8 == 0 for start in drawn[::8])
